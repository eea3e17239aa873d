"""The contracts of the diffusion room, as protocols.

**Time.** t in [0, 1], float32 whatever the compute dtype: 0 is data, 1 is noise, for every process. A noised example is
x_t = alpha(t) x_0 + sigma(t) noise, noise ~ N(0, I).
**Arrays.** x [B ...] has any shape behind the batch; t is [B] or a scalar, and `expand` gives it the rank of x.
"""

from collections.abc import Callable
from typing import Annotated, Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError

TIME_ROUNDING = 1e-5  # times that sums of steps carried past the ends by rounding are no mistake


@runtime_checkable
class Process(Protocol):
    """A Gaussian path from data to noise. A frozen spec; its functions work on times of any shape."""

    @property
    def min_time(self) -> float:
        """The least time that a sampler asks the network about, and training draws."""
        ...

    @property
    def max_time(self) -> float:
        """The greatest such time; 1, or less where the path is singular there."""
        ...

    def alpha(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """Factor of the data; 1 at t = 0."""
        ...

    def sigma(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """Standard deviation of the noise; 0 at t = 0."""
        ...

    def sample_time(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Times of training examples."""
        ...

    def model_time(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """What the network is told: the time in the unit of its embedding, 0 to about 1000."""
        ...


@flax.struct.dataclass
class Denoised:
    """What a network says about x_t, whatever it was trained to predict.

    x0, noise: the estimates, x_t = alpha(t) x0 + sigma(t) noise. variance: the learned interpolation in [-1, 1] between
    the two bounds of the reverse variance, in the log; None without.
    """

    x0: Annotated[Any, Float[Array, "B ..."]]
    noise: Annotated[Any, Float[Array, "B ..."]]
    variance: Annotated[Any, Float[Array, "B ..."] | None] = None


Denoiser = Callable[[Float[Array, "B ..."], Float[Array, " B"]], Denoised]
"""(x_t [B ...], t [B]) -> Denoised. Networks, analytic mixtures and guided pairs of them all have this form."""


@flax.struct.dataclass
class Sampled:
    """x: the samples. path: x after every step and before the first, [steps + 1, B ...]; estimates: the x0 that each
    step's first evaluation gave, [steps, B ...]; both None unless asked for.
    """

    x: Annotated[Any, Float[Array, "B ..."]]
    path: Annotated[Any, Float[Array, "N B ..."] | None] = None
    estimates: Annotated[Any, Float[Array, "N B ..."] | None] = None


@runtime_checkable
class Sampler(Protocol):
    """A frozen spec with `num_steps`; all times are static, so that one compiled scan makes all steps."""

    num_steps: int

    @property
    def evaluations(self) -> int:
        """How often the denoiser is asked for one sample."""
        ...

    def sample(
        self,
        process: Process,
        denoiser: Denoiser,
        noise: Float[Array, "B ..."],
        *,
        key: PRNGKeyArray | None = None,
        record: bool = False,
    ) -> Sampled:
        """Samples from x at the process's last time (standard normal). key: for samplers that draw noise on the way.

        Raises SpecError when a stochastic sampler gets no key.
        """
        ...


def expand(t: Float[Array, "..."], x: Float[Array, "B ..."]) -> Float[Array, "..."]:
    """Times [B] (or a scalar) with axes of size 1 behind them, so that they broadcast against x."""
    return jnp.reshape(t, jnp.shape(t) + (1,) * (x.ndim - jnp.ndim(t))) if jnp.ndim(t) else jnp.full((1,) * x.ndim, t)


def check_time(t: Float[Array, "..."], name: str = "t") -> None:
    """Raises SpecError for times outside [0, 1]; only where their values are known, so not inside compiled functions.

    The usual mistake is a step index, or the time in the unit that the network is told. Source: ours.
    """
    if isinstance(t, jax.core.Tracer):
        return
    values = np.asarray(t)
    wrong = values[~((values >= -TIME_ROUNDING) & (values <= 1.0 + TIME_ROUNDING))]  # NaN is wrong as well
    if wrong.size:
        raise SpecError(
            f"{name}={float(wrong.flat[0])} is no time of a process: times lie in [0, 1], 0 is data and 1 is noise. "
            "A step index i of a chain of num_steps is the time (i + 1) / num_steps."
        )
