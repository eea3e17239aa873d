"""Which noise an example is mixed with in training: any, the one assigned to it in its minibatch, or the nearest of some.

Noise near its picture keeps the paths of different pictures apart, which is easier to learn. Assignment permutes the noise
of a minibatch, so that the noise of training as a whole stays standard normal; the nearest of k does not quite.

Source: linear, Li et al. 2024, "Immiscible Diffusion: Accelerating Diffusion Training with Noise Assignment", section 3;
nearest, Li et al. 2025, "Improved Immiscible Diffusion: Accelerate Diffusion Training by Reducing Its Miscibility" (4 draws
in the authors' code).
Deviations: by default the sum of squared distances is least; the authors' code sums the distances (squared=False). The
assignment runs on the device, inside the compiled step, not on the host. 'half' rounds pictures and noise to float16 as
the authors do, but adds up in float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError, did_you_mean
from moejax.diffusion.linear_assignment import linear_assignment

METHODS = ("independent", "linear", "nearest")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseAssignment:
    """method: 'independent' (standard diffusion), 'linear' or 'nearest'.

    num_draws: noises among which 'nearest' chooses; 1 is standard diffusion. squared: whether 'linear' adds up squared
    distances. half: distances of float16 pictures and noise.
    """

    method: str = "independent"
    num_draws: int = 4
    squared: bool = True
    half: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SpecError(f"noise.method={self.method!r} is unknown.{did_you_mean(self.method, METHODS)}")
        if self.num_draws < 1:
            raise SpecError(f"noise.num_draws={self.num_draws} must be at least 1, which is standard diffusion.")

    def draw(self, key: PRNGKeyArray, x0: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """Noise for each example, float32."""
        if self.method == "nearest":
            return nearest_noise(key, x0, self.num_draws, half=self.half)
        noise = independent_noise(key, x0)
        return assign(x0, noise, squared=self.squared, half=self.half) if self.method == "linear" else noise


def independent_noise(key: PRNGKeyArray, x0: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Standard normal numbers of the shape of x0, float32."""
    return jax.random.normal(jax.random.split(key, 1)[0], x0.shape, jnp.float32)


def nearest_noise(
    key: PRNGKeyArray, x0: Float[Array, "B ..."], num_draws: int, *, half: bool = False
) -> Float[Array, "B ..."]:
    """The nearest of num_draws independent noises to each example; the same as `independent_noise` for one draw.

    Only two noises are held at a time.
    """
    keys = jax.random.split(key, num_draws)
    axes = tuple(range(1, x0.ndim))
    picture = _rounded(x0, half)

    def draw(key: PRNGKeyArray) -> tuple[Float[Array, "B ..."], Float[Array, " B"]]:
        noise = jax.random.normal(key, x0.shape, jnp.float32)
        return noise, jnp.sum((picture - _rounded(noise, half)) ** 2, axis=axes)

    def keep_nearer(best: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], None]:
        noise, distance = draw(key)
        nearer = distance < best[1]
        chosen = jnp.where(jnp.expand_dims(nearer, axes), noise, best[0])
        return (chosen, jnp.minimum(distance, best[1])), None

    # The first key alone is the one that `independent_noise` splits off.
    first = draw(jax.random.split(key, 1)[0])
    return jax.lax.scan(keep_nearer, first, keys[1:])[0][0]


def assign(
    x0: Float[Array, "B ..."], noise: Float[Array, "B ..."], *, squared: bool = True, half: bool = False
) -> Float[Array, "B ..."]:
    """The same noises in the order that brings them nearest to the examples, in total over the minibatch. Exact."""
    return noise[linear_assignment(assignment_cost(x0, noise, squared=squared, half=half))]


def assignment_cost(
    x0: Float[Array, "B ..."], noise: Float[Array, "B ..."], *, squared: bool = True, half: bool = False
) -> Float[Array, "B B"]:
    """Cost of each pair: the distance, or (squared) what ranks assignments as the squared distance does.

    Squared lengths of pictures and noises add the same to all assignments; without them -2 x.noise keeps more digits.
    """
    x, y = (_rounded(a, half).reshape(a.shape[0], -1) for a in (x0, noise))
    product = -2.0 * jnp.einsum("Bi,Ci->BC", x, y, precision=jax.lax.Precision.HIGHEST)
    if squared:
        return product
    lengths = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None]
    return jnp.sqrt(jnp.maximum(lengths + product, 0.0))


def _rounded(x: Float[Array, "B ..."], half: bool) -> Float[Array, "B ..."]:
    return (x.astype(jnp.float16) if half else x).astype(jnp.float32)
