"""Log-likelihood of softmax-gated linear experts with Gaussian noise, with its gradient and Hessian written out.

Five numbers an expert, in this order: gate bias, gate kernel, weight a, bias b, log variance. Automatic differentiation gives the
same (`gaussian_moe` with `newton.by_autodiff`) at several times the cost; over-specified studies take a hundred thousand steps.
Source: ours, by differentiating equation 1 of Nguyen et al. 2023 ("Demystifying softmax gating").
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

WIDTH = 5
BIAS, KERNEL, WEIGHT, SHIFT, LOG_VARIANCE = range(WIDTH)


def pack(params: Any) -> Float[Array, "_"]:
    """[5 E], expert by expert, from parameters as of `GaussianMoE` with the gate 'linear'."""
    gate = params["gate"]
    rows = (gate["bias"], gate["kernel"][0], params["weight"], params["bias"], params["log_variance"])
    return jnp.stack([jnp.asarray(row) for row in rows], axis=-1).reshape(-1)


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
    slopes, towards = _expert_slopes(x, off, variance)
    gate_slopes = jnp.stack([jnp.ones_like(x), x, *[jnp.zeros_like(x)] * 3], axis=-1)[:, None]
    owned = (owners[..., None] * slopes).reshape(len(x), -1)
    gated = (gates[..., None] * gate_slopes).reshape(len(x), -1)
    gradient = count @ (owned - gated)
    own = jnp.einsum("ne,nea,neb->eab", count[:, None] * owners, slopes, slopes)
    own += jnp.einsum("ne,neab->eab", count[:, None] * owners, towards)
    own -= jnp.einsum("ne,na,nb->eab", count[:, None] * gates, gate_slopes[:, 0], gate_slopes[:, 0])
    hessian = gated.T @ (count[:, None] * gated) - owned.T @ (count[:, None] * owned)
    blocks = jnp.eye(len(rows))[:, None, :, None] * own[:, :, None, :]
    return value, gradient, hessian + blocks.reshape(hessian.shape)


def _expert_slopes(
    x: Float[Array, "N"], off: Float[Array, "N E"], variance: Float[Array, "_ E"]
) -> tuple[Float[Array, "N E _"], Float[Array, "N E _ _"]]:
    """Slopes of the score plus the expert's log-density in its five numbers, and the slopes of those."""
    inputs = jnp.broadcast_to(x[:, None], off.shape)
    scaled, ones, zeros = off / variance, jnp.ones_like(off), jnp.zeros_like(off)
    slopes = jnp.stack([ones, inputs, inputs * scaled, scaled, 0.5 * (off * scaled - 1)], axis=-1)
    inverse = ones / variance
    second = {
        (WEIGHT, WEIGHT): -inputs * inputs * inverse,
        (WEIGHT, SHIFT): -inputs * inverse,
        (SHIFT, SHIFT): -inverse,
        (WEIGHT, LOG_VARIANCE): -inputs * scaled,
        (SHIFT, LOG_VARIANCE): -scaled,
        (LOG_VARIANCE, LOG_VARIANCE): -0.5 * off * scaled,
    }
    entries = [second.get((min(a, b), max(a, b)), zeros) for a in range(WIDTH) for b in range(WIDTH)]
    return slopes, jnp.stack(entries, axis=-1).reshape(*off.shape, WIDTH, WIDTH)
