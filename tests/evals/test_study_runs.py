"""Studies are run part by part: resumed, kept apart, judged, shown on a page that says what failed."""

import dataclasses
import math

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals.study_report import write_study_report
from moejax.evals.study_runs import read_study, run_study
from moejax.theory.findings import Chart, Expected
from moejax.theory.rates import error_curves, rate_findings


@dataclasses.dataclass(frozen=True)
class Falling:
    """Errors of known slopes; says which parts it was asked for."""

    seed: int = 0
    sizes: tuple[int, ...] = (10, 100, 1000)
    slope: float = -0.5
    asked: list = dataclasses.field(default_factory=list)
    claim = "Errors fall."
    protocol = "They are written down."
    expected = (
        Expected(quantity="good", value=-0.5, tolerance=0.01, published=-0.49, why="the paper's <figure>"),
        Expected(quantity="never", value=-0.5, tolerance=0.01),
    )

    @property
    def parts(self):
        return tuple(f"n={n}" for n in self.sizes)

    def estimates(self, part):
        self.asked.append(part)
        n = int(part[2:])
        return {"good": np.full(6, float(n) ** self.slope), "never": np.full(6, np.nan)}

    def errors(self, raw):
        return {n: raw[f"n={n}"] for n in self.sizes}

    def findings(self, raw):
        return rate_findings(self.expected, self.errors(raw))

    def chart(self, raw):
        return Chart(curves=error_curves(self.errors(raw), ["good", "never"]))


def run(study, folder, **config):
    return run_study(study, folder, name="falling", config=config, command="python it", progress=False)


def test_a_study_goes_on_where_it_stopped_and_reads_back(tmp_path):
    study = Falling()
    first = run(study, tmp_path / "a", seed=0)
    assert study.asked == ["n=10", "n=100", "n=1000"]
    (tmp_path / "a" / "parts" / "n=100.npz").unlink()
    again = run(study, tmp_path / "a", seed=0)
    assert study.asked[3:] == ["n=100"]
    good, never = again.findings
    assert good.verdict == "confirmed" and good.measured == pytest.approx(-0.5) and good.sizes == (10, 100, 1000)
    assert never.verdict == "not testable" and never.failed == 18
    read = read_study(tmp_path / "a")
    assert read.findings[0] == good and math.isnan(read.findings[1].measured)
    assert (
        read.command == "python it"
        and read.seconds == pytest.approx(again.seconds)
        and first.chart.stat().st_size > 5000
    )
    table = (tmp_path / "a" / "table.md").read_text()
    assert (
        "| good | mean | -0.5 ± 0.01 | -0.49 | -0.5 |" in table and "- never: 0 finite errors of 6 replicates" in table
    )


def test_a_folder_holds_one_study_and_a_damaged_part_is_named(tmp_path):
    run(Falling(), tmp_path, seed=0)
    with pytest.raises(SpecError, match=r"config.seed is 0 there and 1 here. Give another --workdir"):
        run(Falling(), tmp_path, seed=1)
    part = tmp_path / "parts" / "n=10.npz"
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(SpecError, match=r"n=10.npz .* truncated .* the same command makes it again"):
        run(Falling(), tmp_path, seed=0)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(SpecError, match="is damaged"):
        read_study(tmp_path)
    with pytest.raises(SpecError, match="holds no finished study"):
        read_study(tmp_path / "parts")


def test_the_page_names_verdicts_and_what_did_not_finish(tmp_path):
    one = run(Falling(), tmp_path / "a", seed=0)
    other = run(Falling(slope=-0.25), tmp_path / "b", seed=0)
    assert other.findings[0].verdict == "not confirmed"
    path = write_study_report([one, other], tmp_path / "report.html", missing={"lost": "exit code 1: no memory"})
    page = path.read_text()
    for text in (
        "not confirmed",
        "the paper&#x27;s &lt;figure&gt;",
        "lost did not finish: exit code 1",
        "python it",
        "data:image/png",
    ):
        assert text in page
    with pytest.raises(SpecError, match="at least one finished study"):
        write_study_report([], path)
