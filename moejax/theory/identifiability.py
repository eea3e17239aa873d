"""Which combinations of parameters the data say nothing about: flat directions of a Fisher information matrix, by name.

Along such a direction the likelihood does not change to second order. No estimator finds the parameters in it, whatever the number of
observations, so that a study names them in place of a rate.
Source: ours; that a singular information matrix and identifiability belong together is Rothenberg 1971 ("Identification in parametric
    models"), theorem 1.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from scipy.linalg import qr

from moejax.core.errors import SpecError

_SMALL = 1e-4  # share of the largest coefficient of a direction below which one is rounding


@dataclasses.dataclass(frozen=True)
class FlatDirection:
    """change: of every parameter that moves along it, by name, the largest of them 1 or -1; the others stay."""

    change: Mapping[str, float]

    def __str__(self) -> str:
        return "(" + " : ".join(self.change) + ") along (" + " : ".join(f"{v:.4g}" for v in self.change.values()) + ")"


def parameter_names(params: Any) -> tuple[str, ...]:
    """Of every number of a tree, in the order of `jax.flatten_util.ravel_pytree`: 'gate kernel 0 1', 'weight 2', 'tau'."""
    names = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = " ".join(str(getattr(key, "key", key)) for key in path)
        names += [" ".join([name, *map(str, index)]) for index in np.ndindex(np.shape(leaf))]
    return tuple(names)


def least_eigenvalue(information: Float[np.ndarray, "_ _"]) -> float:
    """Of a Fisher information matrix; zero up to rounding where something cannot be estimated."""
    return float(np.linalg.eigvalsh(information)[0])


def flat_directions(
    information: Float[np.ndarray, "_ _"], names: Sequence[str], *, tolerance: float = 1e-12
) -> tuple[FlatDirection, ...]:
    """A basis of the directions with eigenvalues below `tolerance` times the largest, each with as few parameters as the others allow.

    names: of the rows of the matrix [P P]. Raises SpecError where their number differs, and for a matrix that is not finite.
    """
    if information.shape != (len(names), len(names)) or not np.all(np.isfinite(information)):
        raise SpecError(
            f"information {information.shape} must be finite and square with one row for each of {len(names)} names; leave pinned "
            "parameters out of both."
        )
    eigenvalues, vectors = np.linalg.eigh(information)
    flat = vectors[:, eigenvalues < tolerance * max(eigenvalues[-1], np.finfo(np.float64).tiny)]
    if not flat.shape[1]:
        return ()
    # Any rotation of the basis is a basis. Pivots make every direction the only one with its own parameter.
    pivots = np.sort(qr(flat.T, pivoting=True, mode="r")[1][: flat.shape[1]])
    basis = flat @ np.linalg.inv(flat[pivots])
    return tuple(_named(column, names) for column in basis.T)


def _named(direction: Float[np.ndarray, "_"], names: Sequence[str]) -> FlatDirection:
    scaled = direction / np.abs(direction).max()
    scaled = scaled * np.sign(scaled[np.argmax(np.abs(scaled) > _SMALL)])
    return FlatDirection({name: float(value) for name, value in zip(names, scaled, strict=True) if abs(value) > _SMALL})
