"""Pictures from a trained diffusion model, in batches of one size, each picture from its own noise.

Source: ours.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.diffusion.contract import Sampled, Sampler
from moejax.diffusion.guidance import Guidance
from moejax.tasks.diffusion import Diffusion


@dataclasses.dataclass(frozen=True)
class Generator:
    """A trained task that turns labels into pictures.

    batch_size: pictures computed together; the last batch of a call is filled up.
    """

    task: Diffusion
    params: Any
    state: Any
    sampler: Sampler
    guidance: Guidance = dataclasses.field(default_factory=Guidance)
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SpecError(f"batch_size={self.batch_size} must be at least 1.")
        self.task.model.check_batch(self.batch_size)

    def sample(self, label: Int[np.ndarray, " M"], *, seed: int = 0, record: bool = False) -> Sampled:
        """Pictures [M height width channels] of these classes, as NumPy arrays, in the range that the model learned.

        Picture i starts from noise that depends on (seed, i) alone; what stochastic samplers draw on the way depends on the
        batch too. record: also the way there, see `Sampled`. Raises SpecError for labels that are no class, and for
        guidance with a model that was trained without label dropout.
        """
        self.task.check_labels(jnp.asarray(label))
        run = self._compiled(record)
        parts = [jax.device_get(run(self.params, self.state, *inputs)) for inputs in self._batches(label, seed)]
        return Sampled(
            x=_joined([part.x for part in parts], len(label)),
            path=_joined([part.path for part in parts], len(label), axis=1) if record else None,
            estimates=_joined([part.estimates for part in parts], len(label), axis=1) if record else None,
        )

    def _compiled(self, record: bool) -> Callable[..., Sampled]:
        guided = self.guidance.scale != 1.0

        @jax.jit
        def run(
            params: Any, state: Any, label: Int[Array, " B"], noise: Float[Array, "B ..."], key: PRNGKeyArray
        ) -> Sampled:
            denoiser = self.task.denoiser(params, state, label, guidance=self.guidance if guided else None)
            return self.sampler.sample(self.task.process, denoiser, noise, key=key, record=record)

        return run

    def _batches(self, label: Int[np.ndarray, " M"], seed: int) -> Iterator[tuple[Array, Array, PRNGKeyArray]]:
        model, key = self.task.model, named(jax.random.key(seed), "samples")
        shape = (model.image_size, model.image_size, model.channels)
        draw = jax.jit(jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32)))
        for start in range(0, len(label), self.batch_size):
            index = np.arange(start, start + self.batch_size)
            wanted = np.asarray(label)[index % len(label)].astype(np.int32)
            yield jnp.asarray(wanted), draw(jnp.asarray(index)), jax.random.fold_in(named(key, "way"), start)


def _joined(parts: list[np.ndarray], count: int, *, axis: int = 0) -> np.ndarray:
    """Batches one behind the other, without what filled up the last."""
    return np.take(np.concatenate(parts, axis=axis), np.arange(count), axis=axis)


Decode = Callable[[Float[Array, "B ..."]], Float[Array, "B ..."]]
DECODED_TOGETHER = 8  # latents; an autoencoder's activations are large


def to_bytes(
    samples: Float[np.ndarray, "M ..."], decode: Decode | None = None
) -> UInt8[np.ndarray, "M height width channels"]:
    """Samples in [-1, 1] as bytes; what lies outside is cut off. decode: from latents to pictures; None: they are pictures."""
    if decode is not None:
        count = len(samples)
        filled = np.concatenate([samples, samples[:1].repeat(-count % DECODED_TOGETHER, axis=0)])
        parts = [decode(jnp.asarray(filled[i : i + DECODED_TOGETHER])) for i in range(0, len(filled), DECODED_TOGETHER)]
        samples = np.concatenate([np.asarray(part) for part in parts])[:count]
    return np.round(np.clip((np.asarray(samples, np.float32) + 1.0) * 127.5, 0.0, 255.0)).astype(np.uint8)


def labels_of(classes: Sequence[int], each: int) -> Int[np.ndarray, " M"]:
    """`each` labels of every class, class by class."""
    return np.repeat(np.asarray(classes, np.int32), each)
