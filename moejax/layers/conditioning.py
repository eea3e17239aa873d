"""What a diffusion model is told beside the picture: the time and the class, as one vector per example."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.layers.projection import init_projection, project

_NORMAL = jax.nn.initializers.normal(0.02)


def time_features(time: Float[Array, " B"], width: int, *, max_period: float = 10_000.0) -> Float[Array, "B F"]:
    """cos, then sin, of the time at width / 2 frequencies that fall from 1 towards 1 / max_period; float32.

    time: in the unit of the embedding, 0 to about 1000. Raises SpecError for an odd width.
    Source: the released ADM and DiT (`timestep_embedding`), after Vaswani et al. 2017, section 3.5.
    """
    if width < 2 or width % 2:
        raise SpecError(f"width={width} of the time features must be even: half are cosines, half sines.")
    half = width // 2
    frequency = jnp.asarray(max_period, jnp.float32) ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = time.astype(jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeEmbedding:
    """Features of the time through two layers with SiLU between: width -> D -> D, kernels N(0, 0.02), biases zero.

    Source: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", section 3.2 and the released DiT.
    """

    width: int = 256

    def init(self, key: PRNGKeyArray, dim: int) -> dict[str, Any]:
        """{'hidden': Dense [width D], 'hidden_bias', 'out': Dense [D D], 'out_bias'}."""
        hidden = init_projection(key, "hidden", (self.width, dim), _NORMAL)
        return hidden | init_projection(key, "out", (dim, dim), _NORMAL)

    def apply(self, params: dict[str, Any], time: Float[Array, " B"], dtype: Any) -> Float[Array, "B D"]:
        """One vector per time; the features are computed in float32, the products in `dtype`."""
        features = time_features(time, self.width).astype(dtype)
        return project(params, "out", jax.nn.silu(project(params, "hidden", features)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelEmbedding:
    """A vector per class, and with dropout > 0 one for "no class", the null label `num_classes`.

    dropout: share of labels that training replaces by the null label, in [0, 1].
    Source: Peebles & Xie 2023, section 3.2 (N(0, 0.02)); dropping labels: Ho & Salimans 2022, algorithm 1.
    """

    num_classes: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise SpecError(f"num_classes={self.num_classes} must be at least 1.")
        if not 0 <= self.dropout <= 1:
            raise SpecError(
                f"label_dropout={self.dropout} must lie in [0, 1]: the share of labels that training drops."
            )

    @property
    def num_labels(self) -> int:
        """Rows of the table: the classes, and the null label where there is one."""
        return self.num_classes + (self.dropout > 0)

    def init(self, key: PRNGKeyArray, dim: int) -> Float[Array, "N D"]:
        """The table."""
        return _NORMAL(named(key, "labels"), (self.num_labels, dim), jnp.float32)

    def apply(
        self, table: Float[Array, "N D"], label: Int[Array, " B"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B D"]:
        """The vectors of the labels, some of them dropped where a key is given; NaN for a traced label out of range.

        Raises SpecError for a known label out of range, and for the null label of a model that was built without it.
        """
        self.check(label)
        if key is not None and self.dropout > 0:
            label = jnp.where(jax.random.bernoulli(key, self.dropout, label.shape), self.num_classes, label)
        label = jnp.where(label < 0, self.num_labels, label)  # no counting from the end
        return jnp.take(table, label, axis=0, mode="fill")

    def check(self, label: Int[Array, " B"]) -> None:
        """Raises SpecError for labels that the table does not have; traced labels cannot be looked at."""
        if isinstance(label, jax.core.Tracer):
            return
        values = np.asarray(label)  # NumPy: inside a compiled function jnp would trace even these
        if values.size and values.max() == self.num_classes and not self.dropout:
            raise SpecError(
                f"label {self.num_classes} is the null label, which a model with label_dropout=0 never learned; "
                "train with label_dropout > 0 (0.1 is usual) to sample without a class or with guidance."
            )
        outside = values[(values < 0) | (values >= self.num_labels)]
        if outside.size:
            null = f", or {self.num_classes} for none" if self.dropout else ""
            raise SpecError(f"label {outside[0]} is out of range; classes are 0 to {self.num_classes - 1}{null}.")
