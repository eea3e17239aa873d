"""The table and the picture of a comparison of banks, from results made up for the purpose."""

import json
import math

import pytest

from moejax.evals import figure_style
from moejax.evals.bank_comparison import Bank, accuracy_by_domain, draw, table, to_json
from moejax.evals.runs import Record


def record(seed, **accuracy):
    return Record(model="m", seed=seed, steps=2, seconds=1.0, test_accuracy=accuracy, curve=[])


def banks():
    both = [record(0, all=0.8, digits=0.9), record(1, all=0.84, digits=0.94)]
    lower = [record(0, all=0.7, digits=0.8), record(1, all=0.7)]
    costs = {"steps": 2, "total_params": 1_234_567, "activated_params": 1000, "flops_per_example": 2_500_000}
    return [
        Bank(bank="dense", matches=("params", "flops"), accuracy=accuracy_by_domain(both), milliseconds=12.34, **costs),
        Bank(bank="low_rank", matches=("flops",), accuracy=accuracy_by_domain(lower), **costs),
    ]


def test_means_over_the_seeds_that_have_a_domain():
    dense, low = banks()
    # Sample standard deviation of 0.80 and 0.84: 0.04 / sqrt(2); over sqrt(2) runs: 0.02.
    assert dense.accuracy["all"].mean == pytest.approx(0.82)
    assert dense.accuracy["all"].standard_error == pytest.approx(0.02)
    assert set(low.accuracy) == {"all"}


def test_table():
    lines = table(banks()).splitlines()
    assert lines[0] == "| bank | equal | all | digits | parameters | activated | MFLOPs a picture | ms a step |"
    assert lines[2] == "| dense | params and flops | 82.0 ± 2.0 | 92.0 ± 2.0 | 1,234,567 | 1,000 | 2.50 | 12.3 |"
    assert lines[3] == "| low_rank | flops | 70.0 ± 0.0 | - | 1,234,567 | 1,000 | 2.50 | - |"


def test_json_keeps_every_number():
    found = json.loads(json.dumps(to_json(banks(), seeds=2)))
    assert found["seeds"] == 2
    assert found["banks"][0]["accuracy"]["all"] == {
        "mean": pytest.approx(0.82),
        "standard_error": pytest.approx(0.02),
        "count": 2,
    }
    assert math.isclose(found["banks"][0]["milliseconds"], 12.34)


def test_picture_has_a_panel_per_match():
    with figure_style.figure(8, 4) as canvas:
        draw(canvas, banks())
        assert [panel.get_title(loc="left") for panel in canvas.axes] == [
            "At equal parameters of the bank",
            "At equal activated FLOPs of the bank",
        ]
        assert [len(panel.get_yticklabels()) for panel in canvas.axes] == [1, 2]
        labels = [label.get_text() for label in canvas.axes[1].get_yticklabels()]
        assert labels[0].startswith("low rank") and labels[1].startswith("dense")  # best on top
        assert labels[1].endswith("12 ms") and "ms" not in labels[0]
