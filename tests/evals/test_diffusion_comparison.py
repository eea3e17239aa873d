"""Means, table and picture of runs with known numbers."""

import json

import pytest
from matplotlib.figure import Figure

from moejax.evals.diffusion_comparison import DiffusionRun, draw, means, table, to_json
from moejax.evals.generation import Agreement, Score


def score(frechet, agreement=None, name="samples"):
    agreed = None if agreement is None else Agreement(agreement, 0.01, 100)
    return Score(name, 100, frechet, 0.002, 0.001, 0.9, 0.8, 0.7, 0.6, agreed, 0.0)


def run(model, seed, loss, frechet):
    curve = ((10, 20), (2 * loss, loss))
    return DiffusionRun(model=model, seed=seed, loss=loss, curve=curve, scores=score(frechet, 0.5), total_params=1234567,
                        flops_per_example=2_500_000)  # fmt: skip


RUNS = [run("dense", 0, 0.25, 3.0), run("moe", 0, 0.125, 2.0), run("dense", 1, 0.75, 5.0), run("moe", 1, 0.125, 2.0)]
FLOOR = score(0.5, 0.875, name="real")


def test_means_over_seeds():
    found = means(RUNS)
    assert list(found) == ["dense", "moe"]
    assert found["dense"]["loss"].mean == pytest.approx(0.5)
    assert found["dense"]["loss"].standard_error == pytest.approx(0.25)  # s = 0.3536, over the root of 2
    assert found["dense"]["frechet"].mean == pytest.approx(4.0)
    assert found["moe"]["frechet"].standard_error == 0.0


def test_the_table():
    lines = table(RUNS, FLOOR).splitlines()
    assert len(lines) == 5
    dense, real = ([cell.strip() for cell in lines[i].strip("|").split("|")] for i in (2, 4))
    assert dense == ["dense", "1,234,567", "2.5", "0.5000 ± 0.2500", "4.00 ± 1.00", "2.0 ± 0.0", "0.900 ± 0.000",
                     "0.800 ± 0.000", "0.700 ± 0.000", "0.600 ± 0.000", "50.0 ± 0.0"]  # fmt: skip
    assert real[0] == "real pictures" and real[4] == "0.50" and real[-1] == "87.5"


def test_the_picture_and_the_file(tmp_path):
    canvas = Figure()
    draw(canvas, RUNS, FLOOR)
    curves, distances, _ = canvas.axes
    assert [text.get_text() for text in curves.get_legend().get_texts()] == ["dense", "moe"]
    assert [line.get_ydata()[0] for line in distances.lines[:2]] == [3.0, 5.0]
    stored = json.loads(json.dumps(to_json(RUNS, FLOOR, steps=20)))
    assert stored["runs"][3]["scores"]["frechet"] == 2.0 and stored["real"]["frechet"] == 0.5 and stored["steps"] == 20
