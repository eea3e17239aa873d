"""Auxiliary losses of token-choice routers, as pure functions.

Each is computed for every group alone and averaged over groups, so that a group is balanced in itself.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def squared_cv(values: Float[Array, "G E"]) -> Float[Array, ""]:
    """(standard deviation / mean)^2 over experts, averaged over groups. Zero when all experts are equal.

    Source: Shazeer et al. 2017, equation 7; population variance, no epsilon, as in the released V-MoE.
    """
    return jnp.mean(jnp.var(values, axis=-1) / jnp.square(jnp.mean(values, axis=-1)))


def importance_loss(probs: Float[Array, "G S E"]) -> Float[Array, ""]:
    """CV^2 of each expert's summed gates.

    Source: Shazeer et al. 2017, equations 6 and 7; Riquelme et al. 2021, appendix A.2 (gates without noise).
    """
    return squared_cv(probs.sum(axis=1))


def load_probability(
    logits: Float[Array, "G S E"],
    noisy_logits: Float[Array, "G S E"],
    noise_std: float | Float[Array, "G S E"],
    num_selected_experts: int,
    *,
    exclude_self: bool = False,
) -> Float[Array, "G S E"]:
    """Probability that an expert's clean logit, with its own noise redrawn, passes the threshold to be selected.

    exclude_self=False: the threshold is the K-th largest noisy logit of all (V-MoE).
    exclude_self=True: the K-th largest among the *other* experts, so that the value is the exact probability of being
        selected given the others' noise (Shazeer); needs K < E, and is 1 everywhere for K = E.
    noise_std: standard deviation, a number or one per logit.
    Source: Riquelme et al. 2021, appendix A.2; Shazeer et al. 2017, equations 8 and 9.
    """
    num_experts, k = logits.shape[-1], num_selected_experts
    if exclude_self and k >= num_experts:
        return jnp.ones_like(logits)
    best, index = jax.lax.top_k(noisy_logits, min(k + 1, num_experts))
    threshold = best[..., k - 1 : k]
    if exclude_self:
        selected = jax.nn.one_hot(index[..., :k], num_experts, dtype=logits.dtype).sum(axis=-2) > 0
        threshold = jnp.where(selected, best[..., k : k + 1], threshold)
    return jax.scipy.special.ndtr((logits - threshold) / noise_std)


def load_loss(probability: Float[Array, "G S E"]) -> Float[Array, ""]:
    """CV^2 of each expert's expected number of tokens, from `load_probability`.

    Source: Shazeer et al. 2017, equations 10 and 11; Riquelme et al. 2021, appendix A.2.
    """
    return squared_cv(probability.mean(axis=1))


def balance_loss(probs: Float[Array, "G S E"], expert: Int[Array, "G S K"]) -> Float[Array, ""]:
    """E * sum_e f_e P_e: f_e the fraction of the S K choices that go to e, P_e the mean probability of e.

    Dividing by S K (not S) makes it 1 under uniform routing for every K. Gradient flows through P only.
    Source: Fedus et al. 2022 (Switch), equations 4 to 6; Lepikhin et al. 2021 (GShard), algorithm 1.
    Deviations: GShard counts first choices only; here all K count, as in DeepSeekMoE.
    """
    num_experts = probs.shape[-1]
    fraction = jax.nn.one_hot(expert, num_experts, dtype=probs.dtype).mean(axis=(1, 2))
    return jnp.mean(num_experts * jnp.sum(fraction * probs.mean(axis=1), axis=-1))


def device_balance_loss(
    probs: Float[Array, "G S E"], expert: Int[Array, "G S K"], num_devices: int
) -> Float[Array, ""]:
    """`balance_loss` of devices in the place of experts: f and P are summed over the E / num_devices experts of each.

    Experts lie on devices in their order, equally many on each. 1 under uniform routing; on one device always 1.
    Source: DeepSeekMoE, equations 15 to 17: their f' is the mean of f over a device's experts with f = E times our
        fraction, which gives num_devices times the summed fraction.
    """
    fraction = jax.nn.one_hot(expert, probs.shape[-1], dtype=probs.dtype).mean(axis=(1, 2))
    by_device = (probs.shape[0], num_devices, -1)
    summed = [values.reshape(by_device).sum(axis=-1) for values in (fraction, probs.mean(axis=1))]
    return jnp.mean(num_devices * jnp.sum(summed[0] * summed[1], axis=-1))


def z_loss(logits: Float[Array, "G S E"]) -> Float[Array, ""]:
    """Mean squared logsumexp of the logits: keeps them small.

    Source: Zoph et al. 2022 (ST-MoE), equation 5.
    """
    return jnp.mean(jnp.square(jax.nn.logsumexp(logits, axis=-1)))
