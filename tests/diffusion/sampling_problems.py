"""Problems with known answers for tests of samplers: mixtures, exact solutions of the probability flow, counting."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import softmax

from moejax.diffusion.gaussian_mixture import GaussianMixture


@dataclasses.dataclass(frozen=True)
class EvenNoise:
    """alpha = 1 and sigma = 2 t: equal steps in time are equal steps in sigma / alpha."""

    min_time: float = 0.1
    max_time: float = 1.0

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return 2.0 * t

    def sample_time(self, key, shape):
        return jax.random.uniform(key, shape, jnp.float32, self.min_time, self.max_time)

    def model_time(self, t):
        return 1000.0 * t


def plane_mixture() -> GaussianMixture:
    """Three unequal components in 2-D, of about unit variance together."""
    return GaussianMixture(
        weights=jnp.asarray([0.5, 0.3, 0.2], jnp.float32),
        means=jnp.asarray([[1.0, 0.0], [-1.0, 0.8], [-0.6, -1.2]], jnp.float32),
        stds=jnp.asarray([0.3, 0.2, 0.4], jnp.float32),
    )


def wide_mixture(dim: int = 64) -> GaussianMixture:
    """Four components in `dim` dimensions, means of unit variance per entry."""
    means = np.random.default_rng(0).normal(size=(4, dim))
    return GaussianMixture(
        weights=jnp.asarray([0.4, 0.3, 0.2, 0.1], jnp.float32),
        means=jnp.asarray(means, jnp.float32),
        stds=jnp.asarray([0.3, 0.5, 0.4, 0.6], jnp.float32),
    )


def numpy_slope(mixture, u, z):
    """noise - x0 expected at z = (1 - u) x_0 + u noise, float64: the flow of every Gaussian path, rescaled."""
    weights, means, stds = (np.asarray(v, np.float64) for v in (mixture.weights, mixture.means, mixture.stds))
    apart = z[:, None] - (1 - u) * means[None]
    variance = (1 - u) ** 2 * stds**2 + u**2
    log_joint = np.log(weights) - 0.5 * (apart**2).sum(-1) / variance - 0.5 * z.shape[1] * np.log(variance)
    share = softmax(log_joint, axis=1)[..., None]
    gain = ((1 - u) * stds**2 / variance)[None, :, None]
    x0 = (share * (means[None] + gain * apart)).sum(1)
    noise = (share * (u / variance)[None, :, None] * apart).sum(1)
    return noise - x0


def exact_flow(mixture, process, x, start: float, end: float) -> np.ndarray:
    """x at time `end` on the probability flow through x at `start`, to about 1e-9; float64 NumPy and SciPy only."""
    at = jnp.asarray([start, end], jnp.float32)
    alpha, sigma = np.asarray(process.alpha(at), np.float64), np.asarray(process.sigma(at), np.float64)
    scale = alpha + sigma
    first = np.asarray(x, np.float64) / scale[0]

    def slope(u, flat):
        return numpy_slope(mixture, u, flat.reshape(first.shape)).ravel()

    solved = solve_ivp(slope, sigma / scale, first.ravel(), method="DOP853", rtol=1e-9, atol=1e-10)
    assert solved.success
    return solved.y[:, -1].reshape(first.shape) * scale[1]


class Counted:
    """A denoiser that counts how often it really runs, also inside a compiled scan."""

    def __init__(self, denoiser):
        self.denoiser, self.times = denoiser, []

    def __call__(self, x, t):
        jax.debug.callback(lambda value: self.times.append(float(value)), t[0])
        return self.denoiser(x, t)


def sliced_distance(a, b, directions: int = 128, seed: int = 0) -> float:
    """Mean over random directions of the 1-Wasserstein distance of two sets of equally many points [N, d]."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    axes = np.random.default_rng(seed).normal(size=(a.shape[1], directions))
    axes /= np.linalg.norm(axes, axis=0)
    return float(np.abs(np.sort(a @ axes, axis=0) - np.sort(b @ axes, axis=0)).mean())
