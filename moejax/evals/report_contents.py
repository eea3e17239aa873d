"""What a report is made of."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from moejax.evals.map_figures import MapSheet
from moejax.evals.run_folders import Broken
from moejax.evals.runs import Number, Record, Run

Samples = Mapping[str, tuple[np.ndarray, Sequence[str]]]
Section = tuple[str, str, list[str]]  # anchor, title, blocks of HTML


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """All but the runs may be missing; then its section is left out.

    runs: of one task or of several, finished or not, named by `run_groups.grouped`. broken: folders that could not be read. records: recorded results drawn beside them. baseline: accuracy of logistic regression by domain,
    with 'all'. milliseconds: median time of a training step by model. sheets: expert maps. samples: domain -> (pictures,
    class names). domains, class_domains: of the data set. environment: what was run on. notes: sentences under the results.
    """

    runs: Sequence[Run]
    records: Sequence[Record] = ()
    baseline: Mapping[str, Number] = dataclasses.field(default_factory=dict)
    milliseconds: Mapping[str, Number] = dataclasses.field(default_factory=dict)
    sheets: Sequence[MapSheet] = ()
    samples: Samples = dataclasses.field(default_factory=dict)
    domains: Sequence[str] = ()
    class_domains: Sequence[int] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    broken: Sequence[Broken] = ()
    title: str = "Mixtures of experts that see"

    @property
    def first_runs(self) -> dict[str, Run]:
        """The run with the first seed of every model."""
        first: dict[str, Run] = {}
        for run in self.runs:
            first.setdefault(run.model, run)
        return first

    @property
    def num_test(self) -> int | None:
        """Test pictures behind the accuracies, None when no run says."""
        return min((run.record.num_test for run in self.runs if run.record.num_test), default=None)
