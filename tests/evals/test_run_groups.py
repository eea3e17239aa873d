"""Seeds of one model are one group, everything else sets runs apart; results carry the errors of their seeds."""

import json
import math

import pytest

from moejax.evals.comparison import Mean
from moejax.evals.run_groups import by_task, differences, grouped, looks, settings
from moejax.evals.run_metrics import Metric, judged_by, means, metrics_of_tests, outcome
from moejax.evals.runs import Record, Run

FINAL = {"step": 10, "time": 1.0}


def run(name="vmoe", seed=0, *, task="classification", rate=0.1, rows=None, folder=None, **more):
    train = {"steps": 10, **more.pop("train", {})}
    config = {"name": name, "seed": seed, "task": {"name": task}, "optimizer": {"learning_rate": rate}, "train": train}
    rows = rows or [FINAL | {"test/accuracy": 0.5}]
    record = Record(model=name, seed=seed, steps=rows[-1]["step"], seconds=1.0, test_accuracy={"all": 0.5}, curve=[])
    return Run(record, folder, rows, config | more)


def names(runs):
    return [one.model for one in grouped(runs)]


def test_seeds_are_grouped_and_settings_set_apart():
    assert names([run(seed=0), run(seed=1)]) == ["vmoe", "vmoe"]
    assert names([run(rate=0.1), run(rate=0.2), run(rate=0.1, seed=1)]) == [
        "vmoe, learning_rate 0.1",
        "vmoe, learning_rate 0.2",
        "vmoe, learning_rate 0.1",
    ]
    quiet = run(seed=1, train={"progress": False, "wandb": {"project": "x"}})
    assert names([run(), quiet]) == ["vmoe", "vmoe"]  # what is shown is no setting
    assert names([run("a"), run("b")]) == ["a", "b"]


def test_many_differences_are_told_by_the_folder(tmp_path):
    other = {"data": {"a": 1, "b": 2, "c": 3, "d": 4}}
    assert names([run(folder=tmp_path / "x"), run(folder=tmp_path / "y", **other)]) == ["vmoe, x", "vmoe, y"]
    same = names([run(folder=tmp_path / "1" / "x"), run(folder=tmp_path / "2" / "x", **other)])
    assert same == ["vmoe, x", "vmoe, x (2)"]


def test_compressed_parameters_are_one_setting():
    structure = {"kernel": {"type": "low_rank", "rank": 3}}
    small, smaller = run(structure=structure), run(structure={"kernel": {"type": "low_rank", "rank": 2}})
    assert sorted(settings(small)) == ["optimizer.learning_rate", "structure", "task.name", "train.steps"]
    table = differences({"whole": [run()], "small": [small], "smaller": [smaller]})
    assert list(table) == ["structure"] and table["structure"]["whole"] == "–"
    assert len(set(table["structure"].values())) == 3


def test_unfinished_runs_have_no_result():
    (one,) = grouped([run(rows=[{"step": 4, "time": 1.0, "train/loss": 1.0}])])
    assert one.record.test_accuracy == {}


def test_looks_are_distinct_and_published_names_are_those_of_pictures():
    runs = grouped(
        [run(rate=0.1), run(rate=0.2), run("dense"), run("garments_dense", task="diffusion", model={"name": "dit"})]
    )
    found = looks(runs)
    assert found["vmoe, learning_rate 0.1"][0] == "V-MoE, learning_rate 0.1"
    assert found["dense"][0] == "Dense ViT" and found["garments_dense"][0] == "garments_dense"
    assert len({colour for _, colour, _ in found.values()}) == 4
    many = looks(grouped([run(rate=0.1 * i) for i in range(1, 20)]))
    assert len({colour for _, colour, _ in many.values()}) == 19


def test_what_judges_a_task():
    def judged(best, **row):
        train = {"best_metric": best, "best_mode": "min"} if best else {}
        return judged_by({"a": [run(rows=[FINAL | row], train=train)]})

    bits = judged("valid/bits_per_byte", **{"valid/bits_per_byte": 2.0, "valid/accuracy": 0.5})
    assert (
        bits == Metric("valid/bits_per_byte", higher=False, fraction=False) and bits.title == "validation bits per byte"
    )
    # The default names an accuracy that diffusion has not; its loss is there.
    assert judged(None, **{"valid/loss": 2.0}) == Metric("valid/loss", higher=False, fraction=False)
    assert judged(None, **{"valid/accuracy": 0.5}) == Metric("valid/accuracy", higher=True, fraction=True)
    assert judged(None) is None


def test_means_count_finished_seeds_alone():
    losses = [run(seed=s, task="diffusion", rows=[FINAL | {"test/loss": v}]) for s, v in enumerate((1.0, 2.0, 3.0))]
    killed = run(seed=3, task="diffusion", rows=[{"step": 4, "time": 1.0, "valid/loss": 9.0}])
    broken = run(seed=4, task="diffusion", rows=[FINAL | {"test/loss": math.nan}])
    groups = by_task(grouped([*losses, killed, broken]))["diffusion"]
    (metric,) = metrics_of_tests(groups)
    # Sample deviation 1, so the error is 1 / sqrt(3).
    found = means(groups, metric)["vmoe"]
    assert (found.mean, found.count) == (2.0, 3) and found.standard_error == pytest.approx(3**-0.5)
    assert metric.shown(means(groups, metric)["vmoe"]) == "2 ± 0.58"
    assert Metric.of("test/accuracy/digits").shown(Mean(0.5, 0.01, 2)) == "50.0 ± 1.0"
    assert Metric.of("test/accuracy/digits").title == "test accuracy, digits"


def test_the_outcome_says_no_more_than_the_seeds_do():
    loss, labels = Metric.of("test/loss"), {"a": "A", "b": "B"}
    text = outcome({"a": Mean(1.0, 0.1, 3), "b": Mean(1.05, 0.1, 3)}, loss, labels)
    assert text.startswith("A has the lowest test loss, 1 ± 0.1, but is not distinguishable from B")
    # 9 apart with an error of sqrt(2)/10: far beyond any limit of t with four degrees of freedom.
    assert "beyond chance" in outcome({"a": Mean(1.0, 0.1, 3), "b": Mean(10.0, 0.1, 3)}, loss, labels)
    assert outcome({"a": Mean(0.1, 0.01, 3), "b": Mean(0.9, 0.01, 3)}, Metric.of("test/accuracy"), labels).startswith(
        "B has"
    )
    assert "cannot be said" in outcome({"a": Mean(1.0, None, 1), "b": Mean(10.0, 0.1, 3)}, loss, labels)
    assert outcome({}, loss, labels) == "No finished run has a test loss."


def test_settings_survive_lists_and_nothing():
    config = {"optimizer": {"weight_decay_rules": [["kernel$", 1.0]]}, "train": {}, "seed": 1}
    record = Record(model="a", seed=1, steps=1, seconds=0.0, test_accuracy={}, curve=[])
    assert settings(Run(record, None, [], config)) == {"optimizer.weight_decay_rules": [["kernel$", 1.0]]}
    assert settings(Run(record)) == {}
    json.dumps(settings(run()))
