"""Solvers of an ordinary differential equation that ask several times a step, as one scan over the evaluations.

The equation is dz/du = f. Each evaluation asks for f at the present stage of z, mixes it with values of f that were kept,
and goes from the step's beginning along the mixture to the next stage: every explicit Runge-Kutta or multistep method is
a table of numbers of this form, and the denoiser is compiled once for all of it.

| form | z | u | f |
|---|---|---|---|
| flow | x / (alpha + sigma) | sigma / (alpha + sigma) | noise - x0 |
| noise | x / alpha | sigma / alpha | noise |

Both are the probability flow of every process: x0 and the noise are what x_t expects of them. In both, one step with
constant f is the step of DDIM. 'flow' is regular from pure noise (u = 1) to data; 'noise' needs alpha > 0.

Source: ours; the noise form is Song et al. 2021, "Denoising Diffusion Implicit Models", equation 14.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.diffusion.contract import Denoised, Denoiser, Process, Sampled
from moejax.diffusion.stepping import ask
from moejax.diffusion.time_grids import alpha_sigma


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One evaluation, and where z goes after it.

    t: the time asked about. to: the time gone to, from `start`, the time at which the step began. weights: of the new f
    (first) and of the kept ones. keep: the place in which the new f is kept. ends: does the step end with this?
    """

    t: float
    start: float
    to: float
    weights: tuple[float, ...]
    keep: int = 0
    ends: bool = True


def coordinates(form: str, alpha: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x / z, u) of the form. Source: the table of this file."""
    scale = alpha + sigma if form == "flow" else alpha
    return scale, sigma / scale


def slope(form: str, said: Denoised) -> Float[Array, "B ..."]:
    """The f of the form. Source: the table of this file."""
    return said.noise - said.x0 if form == "flow" else said.noise


def run_stages(
    form: str, stages: list[Stage], process: Process, denoiser: Denoiser, noise: Float[Array, "B ..."], *, record: bool
) -> Sampled:
    """Runs all stages, beginning with x = noise at the first one's time; float32."""
    rows = _rows(form, stages, process)
    scale_start = rows.pop("first_scale")
    scale_end = rows.pop("last_scale")
    ends = np.asarray([stage.ends for stage in stages])
    begins = np.concatenate([[True], ends[:-1]])
    z = noise.astype(jnp.float32) / scale_start
    kept = jnp.zeros((len(stages[0].weights) - 1, *z.shape), jnp.float32)

    def body(carry, row):
        begin, z, kept = carry
        said = ask(denoiser, row["scale"] * z, row["t"])
        new = slope(form, said)
        mixed = row["weights"][0] * new + jnp.tensordot(row["weights"][1:], kept, axes=1)
        z = begin + row["stride"] * mixed
        kept = kept.at[row["keep"]].set(new)
        carry = (jnp.where(row["ends"], z, begin), z, kept)
        return carry, (row["next_scale"] * z, said.x0) if record else None

    (_, z, _), seen = jax.lax.scan(body, (z, z, kept), rows)
    x = scale_end * z
    if not record:
        return Sampled(x=x)
    path = jnp.concatenate([noise.astype(jnp.float32)[None], seen[0][np.flatnonzero(ends)]])
    return Sampled(x=x, path=path, estimates=seen[1][np.flatnonzero(begins)])


def _rows(form: str, stages: list[Stage], process: Process) -> dict[str, Array]:
    def at(pick: str) -> tuple[np.ndarray, np.ndarray]:
        return coordinates(form, *alpha_sigma(process, tuple(getattr(stage, pick) for stage in stages)))

    (scale, _), (next_scale, target), (_, begin) = at("t"), at("to"), at("start")
    floats = {
        "t": np.asarray([stage.t for stage in stages]),
        "scale": scale,
        "next_scale": next_scale,
        "stride": target - begin,
        "weights": np.asarray([stage.weights for stage in stages]),
        "first_scale": scale[0],
        "last_scale": next_scale[-1],
    }
    rows = {name: jnp.asarray(value, jnp.float32) for name, value in floats.items()}
    rows["keep"] = jnp.asarray([stage.keep for stage in stages], jnp.int32)
    rows["ends"] = jnp.asarray([stage.ends for stage in stages])
    return rows
