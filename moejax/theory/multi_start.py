"""Starts for one atom more than the truth has, beside the truth, and the best of the maxima that they lead to.

The likelihood of an over-specified mixture has maxima of two shapes near the truth: two atoms of a cell part in location, or in
variance. A climb finds the one it starts in; the larger of them is the estimate.
Source: ours; the shapes are those of `polynomial_systems.two_atoms`, their sizes the rates of Ho and Nguyen 2016.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from moejax.core.errors import SpecError
from moejax.theory.newton import Fit, Objective, maximise
from moejax.theory.softmax_gaussian import BIAS, KERNEL, LOG_VARIANCE, SHIFT, WEIGHT, WIDTH

SHAPES = ("location", "variance", "skewed")
_SHARE = {"location": 0.5, "variance": 0.5, "skewed": 0.85}  # of the cell's mass, in the first of its two atoms


def split_starts(
    truth: Float[np.ndarray, "_"], num_examples: int, draw: np.random.Generator
) -> Float[np.ndarray, "_ _"]:
    """Packed starts [3 E, 5 (E + 1)], every cell split in every shape; its two atoms come first, then the others in their order.

    The last atom is the truth's last, or the one before where that is split: its gate, in `last_gate`, is to stay where it is.
    Locations part by 0.9 standard deviations times n^(-1/8), variances by 1.6 times themselves times n^(-1/4).
    Raises SpecError for a truth of one expert, which leaves no gate to hold, and for fewer than 100 examples.
    """
    rows = truth.reshape(-1, WIDTH)
    if len(rows) < 2 or num_examples < 100:
        raise SpecError(
            f"starts split one of at least 2 true experts, not {len(rows)}, for at least 100 examples, not {num_examples}."
        )
    starts = []
    for cell in range(len(rows)):
        others = np.delete(rows, cell, axis=0)
        for shape in SHAPES:
            pair = _parted(rows[cell], shape, num_examples)
            noise = 0.1 * num_examples**-0.25 * draw.standard_normal((2, 2))
            pair[:, [KERNEL, WEIGHT]] += noise
            starts.append(np.concatenate([pair, others]).reshape(-1))
    return np.stack(starts)


def last_gate(size: int) -> Bool[np.ndarray, "_"]:
    """Which of `size` packed parameters move: all but the last atom's gate, which is the translation."""
    free = np.ones((size // WIDTH, WIDTH), bool)
    free[-1, [BIAS, KERNEL]] = False
    return free.reshape(-1)


def directions(size: int) -> Float[np.ndarray, "_ _"]:
    """Moves [size, size - 3] of packed parameters that hold the last atom's gate and the ratio of the first two atoms' masses.

    The ratio has no true value where both atoms are one in truth: it is a choice of the starts, and the likelihood hardly sees it.
    """
    moves = np.eye(size)[:, last_gate(size)]
    moves[WIDTH + BIAS, BIAS] = 1.0
    return np.delete(moves, WIDTH + BIAS, axis=1)


def climb(objective: Objective, start: Float[Array, "_"], moves: Float[Array, "_ _"], *, iterations: int) -> Fit:
    """`newton.maximise` within `start` plus combinations of the columns of `moves` [P Q]; params [P] are the full ones."""

    def along(place: Float[Array, "_"]) -> tuple[Array, Array, Array]:
        value, gradient, hessian = objective(start + moves @ place)
        return value, moves.T @ gradient, moves.T @ hessian @ moves

    fit = maximise(along, jnp.zeros(moves.shape[1], start.dtype), iterations=iterations)
    return dataclasses.replace(fit, params=start + moves @ fit.params)


def highest(fits: Fit) -> tuple[Fit, Array]:
    """Of fits [... S] the one of the largest finite value, and which it was [...]."""
    which = jnp.argmax(jnp.where(jnp.isfinite(fits.value), fits.value, -jnp.inf), axis=-1)

    def taken(values: Float[Array, "..."]) -> Float[Array, "..."]:
        index = which.reshape(which.shape + (1,) * (values.ndim - which.ndim))
        return jnp.take_along_axis(values, index, axis=which.ndim).squeeze(which.ndim)

    return jax.tree.map(taken, fits), which


def _parted(row: Float[np.ndarray, "_"], shape: str, num_examples: int) -> Float[np.ndarray, "2 _"]:
    """Two atoms with the mass, mean and variance of one, whose first moments stay."""
    share, pair = _SHARE[shape], np.stack([row, row])
    pair[:, BIAS] += np.log([share, 1 - share])
    variance = math.exp(row[LOG_VARIANCE])
    if shape == "variance":
        apart = 1.6 * num_examples**-0.25
        pair[:, LOG_VARIANCE] = np.log(variance * np.array([1 + apart, 1 - apart]))
        return pair
    apart = 0.9 * math.sqrt(variance) * num_examples**-0.125
    pair[:, SHIFT] += apart * np.array([math.sqrt((1 - share) / share), -math.sqrt(share / (1 - share))])
    pair[:, LOG_VARIANCE] = math.log(variance - apart**2)
    return pair
