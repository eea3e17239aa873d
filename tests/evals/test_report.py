"""The report builds from made-up runs, needs no other file, and leaves out what is missing."""

import re

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals.curves import band, smooth
from moejax.evals.report import write_report
from moejax.evals.report_contents import Report
from moejax.evals.report_results import text_table
from moejax.evals.runs import find_runs

DOMAINS = ("garments", "pictograms", "digits")


@pytest.fixture(scope="module")
def page(runs_folder, sheets, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("report")
    runs = find_runs(runs_folder)
    image = np.zeros((2, 8, 8, 3), np.uint8)
    report = Report(
        runs=runs,
        records=[run.record for run in runs],
        baseline={"all": 0.742, "garments": 0.806, "pictograms": 0.44, "digits": 0.939},
        milliseconds={"dense": 41.0, "vmoe": 52.0},
        sheets=sheets,
        samples={"garments": (image, ("shirt", "<b>"))},
        domains=DOMAINS,
        class_domains=(0,) * 4 + (1,) * 3 + (2,) * 3,
        environment={"Device": "1 x cpu"},
    )
    path = write_report(report, tmp_path / "report")
    return path, path.read_text()


def test_the_page_loads_nothing(page):
    path, text = page
    addresses = re.findall(r"""(?:src|href|srcset|data|action)\s*=\s*["']?([^"'\s>]+)""", text)
    assert addresses
    assert all(a.startswith(("data:", "#", "image/")) for a in addresses), addresses
    assert not re.search(r"@import|url\(|<script|<iframe|<object", text)
    names = {p.name for p in path.parent.glob("*.png")}
    assert len(names) == text.count("data:image/png;base64,")
    expected = {
        "learning_curves.png",
        "accuracy_against_cost.png",
        "expert_maps_vmoe.png",
        "slots_soft.png",
        "samples.png",
    }
    expected |= {"preferences_vmoe.png", "load_over_training.png", "routing_health.png", "calibration.png"}
    assert expected <= names


def test_the_page_says_what_was_found(page):
    _, text = page
    assert "Soft MoE" in text and "81.5" in text  # 0.81 and 0.82
    assert "above logistic regression (74.2 %), by 3.3 to 7.3 points" in text  # 0.775 and 0.815 against 0.742
    assert "distinguishable" in text or "wins" in text
    assert "Recorded longer runs" in text
    assert 'name="viewport"' in text


def test_the_text_table(runs_folder):
    runs = [run for run in find_runs(runs_folder) if run.model in ("dense", "soft")]
    lines = text_table(Report(runs=runs, domains=DOMAINS, baseline={"all": 0.742}))
    # Dense 0.77 and 0.78: mean 77.5, standard error 0.5 of 100; pictograms 20 points lower.
    assert lines[2].split() == [
        "Dense",
        "ViT",
        *["77.5", "±", "0.5", "82.5", "±", "0.5", "57.5", "±", "0.5", "92.5", "±", "0.5"],
    ]
    assert lines[4].split() == ["logistic", "regression", "74.2", "-", "-", "-"]


def test_missing_parts_are_left_out(runs_folder, tmp_path):
    runs = [run for run in find_runs(runs_folder) if run.model == "dense"]
    text = write_report(Report(runs=runs), tmp_path / "small").read_text()
    assert "Which expert looked where" not in text
    assert "Routing over training" not in text
    with pytest.raises(SpecError, match="at least one"):
        write_report(Report(runs=[]), tmp_path / "none")


def test_bands_reach_over_seeds():
    steps, mean, low, high = band([([0, 10, 20], [0.0, 1.0, 2.0]), ([0, 20], [2.0, 4.0])])
    assert steps.tolist() == [0, 10, 20]
    assert mean.tolist() == [1.0, 2.0, 3.0]  # the second seed is 3 at step 10
    assert low.tolist() == [0.0, 1.0, 2.0]
    assert high.tolist() == [2.0, 3.0, 4.0]
    assert smooth([0.0, 3.0, 6.0], window=3).tolist() == [1.5, 3.0, 4.5]
