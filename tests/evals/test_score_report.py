"""The report of runs without classes, from made-up runs: means, who is ahead and by which score, and a page that is whole."""

import re

import pytest

from moejax.core.errors import SpecError
from moejax.evals.report_contents import Report
from moejax.evals.runs import Record, Run
from moejax.evals.score_report import best, headline, scores, task_of, text_lines, write_score_report

LAYER = {"mutual_information": 0.5, "mutual_information_domain": 0.25, "dead_experts": 0.0, "realised_load": [0.5, 0.5]}


def made_up(model, seed, bits, *, task="language", metric="valid/bits_per_byte", mode="min", routed=False):
    rows = [
        {"step": step, "train/loss": 4.0 / step, metric: bits + 1 / step, "time": float(step)}
        | ({"block_00/load": [0.5, 0.5], "block_00/entropy": 0.6} if routed else {})
        for step in (1, 2, 3)
    ]
    rows.append(
        {
            "step": 3,
            "test/bits_per_byte": bits,
            "test/loss": 0.7 * bits,
            "test/parameters": "last",
            "test/parameters_step": 3,
        }
    )
    record = Record(model=model, seed=seed, steps=3, seconds=3.0, test_accuracy={}, curve=[], dataset="docstrings")
    config = {"task": {"name": task}, "train": {"best_metric": metric, "best_mode": mode}}
    evaluation = {"routing": {"block_00": LAYER}} if routed else {"routing": {}}
    return Run(record, None, rows, config, evaluation)


@pytest.fixture
def runs():
    return [made_up("dense", 0, 2.5), made_up("dense", 1, 2.7), made_up("top_k", 0, 2.0, routed=True)]


def test_means_over_seeds(runs):
    found = scores(runs)
    assert list(found) == ["bits_per_byte", "loss"]  # the headline first; no row of strings, no step
    # (2.5 + 2.7) / 2, and s / sqrt(2) with s = 0.2 / sqrt(2): 0.1.
    assert found["bits_per_byte"]["dense"].mean == pytest.approx(2.6)
    assert found["bits_per_byte"]["dense"].standard_error == pytest.approx(0.1)
    assert found["loss"]["top_k"].mean == pytest.approx(1.4) and found["loss"]["top_k"].standard_error is None


def test_less_is_better_where_the_config_says_so(runs):
    assert headline(runs) == ("bits_per_byte", True)
    assert best(runs).startswith("Least bits per byte: ") and "2.000; " in best(runs) and "2.600 ± 0.100" in best(runs)
    assert "One seed says nothing" in best(runs)
    more = [made_up("a", s, 2.0 + s, metric="valid/bits_per_byte", mode="max") for s in (0, 1)]
    assert best(more).startswith("Highest") and "One seed" not in best(more)
    assert headline([made_up("a", 0, 1.0, metric="valid/accuracy", mode="max")]) == ("loss", True)


def test_the_page(runs, tmp_path):
    path = write_score_report(Report(runs=runs, title="Language & <more>"), tmp_path)
    text = path.read_text()
    assert "Language &amp; &lt;more&gt;" in text and "2.600 ± 0.100" in text and "0.250" in text
    assert re.findall(r'<img[^>]*src="(?!data:)', text) == []
    assert (tmp_path / "learning_curves.png").stat().st_size > 5000
    lines = text_lines(runs)
    assert any("bits per byte" in line for line in lines) and any("2.600 ± 0.100" in line for line in lines)


def test_what_cannot_be_reported(runs, tmp_path):
    assert task_of(runs) == "language"
    with pytest.raises(SpecError, match=r"several tasks \(diffusion, language\)"):
        task_of([*runs, made_up("dit", 0, 1.0, task="diffusion")])
    unfinished = [Run(run.record, None, run.rows[:-1], run.config) for run in runs]
    with pytest.raises(SpecError, match="one finished run"):
        write_score_report(Report(runs=unfinished), tmp_path)
    assert best(unfinished) == "No run has test results."
