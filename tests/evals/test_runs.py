"""Reading runs and results files."""

import json

import pytest

from moejax.core.errors import SpecError
from moejax.evals.runs import find_runs, read_records, read_rows, series, write_records


def test_runs_are_found_and_read(runs_folder):
    runs = find_runs(runs_folder)
    assert [(r.model, r.record.seed) for r in runs[:3]] == [("dense", 0), ("dense", 1), ("expert_choice", 0)]
    record = runs[0].record
    assert record.steps == 200
    assert runs[0].finished
    assert record.dataset == "patchwork"
    assert record.num_test == 3013
    assert record.test_accuracy["all"] == pytest.approx(0.77)
    assert record.test_accuracy["pictograms"] == pytest.approx(0.57)
    assert record.total_params == 300_000
    assert [step for step, _ in record.curve] == [50, 100, 150, 200]


def test_a_folder_without_runs_says_so(tmp_path):
    with pytest.raises(SpecError, match="no folder"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(SpecError, match="holds no run.*Train first"):
        find_runs(tmp_path)


def test_rows_of_an_interrupted_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 2, "a": 3}\n{"step": 3, "a"')
    rows = read_rows(path)
    assert series(rows, "a") == ([1, 2], [1, 3])  # the later of two rows of a step counts, half a row does not
    path.write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(SpecError, match="metrics.jsonl:1"):
        read_rows(path)
    path.write_text("")
    with pytest.raises(SpecError, match="no row"):
        read_rows(path)


def test_results_files_come_back_as_written(runs_folder, tmp_path):
    records = [run.record for run in find_runs(runs_folder)]
    write_records(records, tmp_path / "new" / "results.json")
    assert read_records(tmp_path / "new" / "results.json") == records


def test_results_files_are_checked(tmp_path):
    path = tmp_path / "results.json"
    entry = {"model": "a", "seed": 0, "steps": 1, "seconds": 1.0, "test_accuracy": {"all": 0.5}, "curve": []}
    path.write_text(json.dumps([{k: v for k, v in entry.items() if k != "steps"}]))
    with pytest.raises(SpecError, match="lacks 'steps'"):
        read_records(path)
    path.write_text(json.dumps([entry | {"num_tests": 3}]))
    with pytest.raises(SpecError, match="Did you mean 'num_test'"):
        read_records(path)
    with pytest.raises(SpecError, match="does not exist"):
        read_records(tmp_path / "none.json")
