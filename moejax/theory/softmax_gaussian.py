"""Log-likelihood of softmax-gated linear experts with Gaussian noise, with its gradient and Hessian written out.

Five numbers an expert, in this order: gate bias, gate kernel, weight a, bias b, log variance. Automatic differentiation gives the
same (`gaussian_moe` with `newton.by_autodiff`) at several times the cost; over-specified studies take a hundred thousand steps.
Source: ours, by differentiating equation 1 of Nguyen et al. 2023 ("Demystifying softmax gating").
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

WIDTH = 5
BIAS, KERNEL, WEIGHT, SHIFT, LOG_VARIANCE = range(WIDTH)


def pack(params: Any) -> Float[np.ndarray, "_"]:
    """[5 E], expert by expert, on the host, from parameters as of `GaussianMoE` with the gate 'linear'."""
    gate = params["gate"]
    rows = (gate["bias"], gate["kernel"][0], params["weight"], params["bias"], params["log_variance"])
    return np.stack([np.asarray(row) for row in rows], axis=-1).reshape(-1)


def unpack(theta: Float[Array, "... _"]) -> Any:
    """The other way, over leading axes too: kernel [... 1 E], the others [... E]."""
    rows = theta.reshape(*theta.shape[:-1], -1, WIDTH)
    gate = {"bias": rows[..., BIAS], "kernel": rows[..., None, :, KERNEL]}
    return {
        "gate": gate,
        "weight": rows[..., WEIGHT],
        "bias": rows[..., SHIFT],
        "log_variance": rows[..., LOG_VARIANCE],
    }


def derivatives(
    theta: Float[Array, "_"],
    x: Float[Array, "N"],
    y: Float[Array, "N"],
    count: Float[Array, "N"],
    selected: Bool[Array, "N E"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, "_"], Float[Array, "_ _"]]:
    """Sum of count * log p(y | x), gradient [P] and Hessian [P P]. selected: experts that are open at each x, held fixed (None: all)."""
    rows = theta.reshape(-1, WIDTH)
    scores = rows[:, BIAS][None] + x[:, None] * rows[:, KERNEL][None]
    if selected is not None:
        scores = jnp.where(selected, scores, -jnp.inf)
    variance = jnp.exp(rows[:, LOG_VARIANCE])[None]
    off = y[:, None] - x[:, None] * rows[:, WEIGHT][None] - rows[:, SHIFT][None]
    joint = scores - 0.5 * (math.log(2 * math.pi) + rows[:, LOG_VARIANCE][None] + off * off / variance)
    value = jnp.sum(count * (jax.nn.logsumexp(joint, axis=1) - jax.nn.logsumexp(scores, axis=1)))
    gates, owners = jax.nn.softmax(scores), jax.nn.softmax(joint)
    weight, open_weight = count[:, None] * owners, count[:, None] * gates
    slopes = _expert_slopes(x, off, variance)
    gate_slopes = jnp.stack([jnp.ones_like(x), x, *[jnp.zeros_like(x)] * 3])
    owned = (owners.T[..., None] * slopes).transpose(1, 0, 2).reshape(len(x), -1)
    gated = (gates[..., None] * gate_slopes.T[:, None]).reshape(len(x), -1)
    own = jnp.swapaxes(slopes, 1, 2) @ (weight.T[..., None] * slopes) + _expert_bends(x, off, variance, weight)
    own -= (gate_slopes[None] * open_weight.T[:, None]) @ gate_slopes.T[None]
    hessian = gated.T @ (count[:, None] * gated) - owned.T @ (count[:, None] * owned)
    blocks = jnp.eye(len(rows))[:, None, :, None] * own[:, :, None, :]
    return value, count @ (owned - gated), hessian + blocks.reshape(hessian.shape)


def _expert_slopes(
    x: Float[Array, "N"], off: Float[Array, "N E"], variance: Float[Array, "_ E"]
) -> Float[Array, "E N _"]:
    """Slopes of the score plus the expert's log-density in its five numbers."""
    inputs = jnp.broadcast_to(x[:, None], off.shape)
    scaled = off / variance
    rows = (jnp.ones_like(off), inputs, inputs * scaled, scaled, 0.5 * (off * scaled - 1))
    return jnp.stack([row.T for row in rows], axis=-1)


def _expert_bends(
    x: Float[Array, "N"], off: Float[Array, "N E"], variance: Float[Array, "_ E"], weight: Float[Array, "N E"]
) -> Float[Array, "E _ _"]:
    """Slopes of those slopes, weighted and summed over the examples."""
    scaled, inverse = weight * off / variance, weight / variance
    sums = {
        (WEIGHT, WEIGHT): -(x * x) @ inverse,
        (WEIGHT, SHIFT): -x @ inverse,
        (SHIFT, SHIFT): -jnp.sum(inverse, axis=0),
        (WEIGHT, LOG_VARIANCE): -x @ scaled,
        (SHIFT, LOG_VARIANCE): -jnp.sum(scaled, axis=0),
        (LOG_VARIANCE, LOG_VARIANCE): -0.5 * jnp.sum(off * scaled, axis=0),
    }
    zeros = jnp.zeros_like(sums[SHIFT, SHIFT])
    entries = [sums.get((min(a, b), max(a, b)), zeros) for a in range(WIDTH) for b in range(WIDTH)]
    return jnp.stack(entries, axis=-1).reshape(-1, WIDTH, WIDTH)
