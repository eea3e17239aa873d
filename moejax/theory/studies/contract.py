"""What a study owes, and what its run keeps. Source: ours."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

Raw = Mapping[str, Float[np.ndarray, "..."]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """A slope that theory or a paper gives: of which quantity, by which summary, over sizes from `first_size` on, and within what.

    published: the number of the paper, None where it gives none. why: what the number stands for, one sentence.
    """

    quantity: str
    slope: float
    tolerance: float
    summary: str = "mean"
    first_size: int = 0
    published: float | None = None
    why: str = ""


@runtime_checkable
class Study(Protocol):
    """A frozen spec. sizes: the n; replicates: data sets at each; seed: of all random numbers, which depend on (seed, n) alone."""

    sizes: tuple[int, ...]
    replicates: int
    seed: int

    @property
    def claim(self) -> str:
        """What is claimed, by whom, in one sentence."""
        ...

    @property
    def expected(self) -> tuple[Expected, ...]:
        """The slopes that the run is compared with."""
        ...

    def estimates(self, num_examples: int) -> Raw:
        """Fitted parameters of every replicate, leading axis R, with 'value' and 'slope', the log-likelihood and the largest
        entry of its gradient, per example.
        """
        ...

    def errors(self, raw: Raw) -> Mapping[str, Float[np.ndarray, "_"]]:
        """Errors [R] by quantity; NaN for a replicate whose fit failed."""
        ...
