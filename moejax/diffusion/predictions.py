"""What a network may be trained to predict, and what each prediction says about the data and the noise.

| kind | target | x0 from x_t and the output | noise |
|---|---|---|---|
| noise | noise | (x - sigma out) / alpha | out |
| x0 | x0 | out | (x - alpha out) / sigma |
| velocity | alpha noise - sigma x0 | (alpha x - sigma out) / (alpha^2 + sigma^2) | (sigma x + alpha out) / (alpha^2 + sigma^2) |
| flow | noise - x0 | (x - sigma out) / (alpha + sigma) | (x + alpha out) / (alpha + sigma) |

Source: noise, Ho et al. 2020, equation 14; x0 and velocity, Salimans & Ho 2022, "Progressive Distillation for Fast
Sampling of Diffusion Models", section 4; flow, Liu et al. 2023, "Flow Straight and Fast", equation 1.
Deviations: Salimans & Ho have alpha^2 + sigma^2 = 1; the division makes velocity right for every process. Flow is dx/dt
for rectified flow; for other processes it is this difference still, not their derivative.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.errors import SpecError, did_you_mean
from moejax.diffusion.contract import Denoised, Process, expand

PREDICTIONS = ("noise", "x0", "velocity", "flow")


def check_prediction(kind: str, process: Process) -> None:
    """Raises SpecError for an unknown kind, and for 'noise' where the process ends in noise alone: no x0 follows there."""
    if kind not in PREDICTIONS:
        raise SpecError(f"prediction={kind!r} is unknown.{did_you_mean(kind, PREDICTIONS)}")
    if kind == "noise" and float(process.alpha(jnp.float32(process.max_time))) == 0.0:
        raise SpecError(
            f"prediction='noise' says nothing about the data where alpha is 0, and {type(process).__name__} has "
            f"alpha(max_time={process.max_time}) = 0. Predict 'flow', 'velocity' or 'x0', or set max_time=0.999."
        )


def noised(
    process: Process, x0: Float[Array, "B ..."], noise: Float[Array, "B ..."], t: Float[Array, "..."]
) -> Float[Array, "B ..."]:
    """x_t = alpha(t) x0 + sigma(t) noise, float32. t: [B] or a scalar."""
    alpha, sigma = _alpha_sigma(process, x0, t)
    return alpha * x0.astype(jnp.float32) + sigma * noise.astype(jnp.float32)


def target(
    kind: str, process: Process, x0: Float[Array, "B ..."], noise: Float[Array, "B ..."], t: Float[Array, "..."]
) -> Float[Array, "B ..."]:
    """What the output of a network for x_t should be, float32. Raises SpecError for an unknown kind."""
    x0, noise = x0.astype(jnp.float32), noise.astype(jnp.float32)
    if kind == "noise":
        return noise
    if kind == "x0":
        return x0
    if kind == "flow":
        return noise - x0
    if kind == "velocity":
        alpha, sigma = _alpha_sigma(process, x0, t)
        return alpha * noise - sigma * x0
    raise SpecError(f"prediction={kind!r} is unknown.{did_you_mean(kind, PREDICTIONS)}")


def denoised(
    kind: str,
    process: Process,
    x: Float[Array, "B ..."],
    t: Float[Array, "..."],
    output: Float[Array, "B ..."],
    variance: Float[Array, "B ..."] | None = None,
) -> Denoised:
    """The estimates that an output for x = x_t stands for, float32 whatever its dtype; alpha x0 + sigma noise = x.

    Singular where the table of this file divides by 0: 'noise' at alpha = 0, 'x0' at sigma = 0.
    Raises SpecError for an unknown kind.
    """
    x, output = x.astype(jnp.float32), output.astype(jnp.float32)
    alpha, sigma = _alpha_sigma(process, x, t)
    if kind == "noise":
        x0, noise = (x - sigma * output) / alpha, output
    elif kind == "x0":
        x0, noise = output, (x - alpha * output) / sigma
    elif kind == "velocity":
        power = alpha**2 + sigma**2
        x0, noise = (alpha * x - sigma * output) / power, (sigma * x + alpha * output) / power
    elif kind == "flow":
        x0, noise = (x - sigma * output) / (alpha + sigma), (x + alpha * output) / (alpha + sigma)
    else:
        raise SpecError(f"prediction={kind!r} is unknown.{did_you_mean(kind, PREDICTIONS)}")
    return Denoised(x0=x0, noise=noise, variance=None if variance is None else variance.astype(jnp.float32))


def _alpha_sigma(
    process: Process, x: Float[Array, "B ..."], t: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    return expand(process.alpha(t), x), expand(process.sigma(t), x)
