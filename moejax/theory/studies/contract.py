"""What a study owes, and what its run keeps. Source: ours."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from moejax.theory.findings import Chart, Finding

Raw = Mapping[str, Float[np.ndarray, "..."]]


@runtime_checkable
class Study(Protocol):
    """A frozen spec with the field `seed`, of all random numbers, which depend on it and on the part alone."""

    seed: int

    @property
    def claim(self) -> str:
        """What is claimed, and by whom, in one sentence."""
        ...

    @property
    def protocol(self) -> str:
        """How it is measured, in one or two sentences: models, estimator, sizes, replicates, and what differs from the paper."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the pieces of work that depend on nothing else, each kept in a file when done. Letters, digits, '-', '.', '='."""
        ...

    def estimates(self, part: str) -> Raw:
        """Raw results of one part, replicates in front: fitted parameters with what tells whether the fit converged."""
        ...

    def findings(self, raw: Mapping[str, Raw]) -> tuple[Finding, ...]:
        """From the results of all parts, by part. Fits that failed are counted, not hidden."""
        ...

    def chart(self, raw: Mapping[str, Raw]) -> Chart:
        """The picture, from the results of all parts."""
        ...
