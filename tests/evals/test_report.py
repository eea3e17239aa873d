"""The report builds from made-up runs, needs no other file, and leaves out what is missing."""

import html.parser
import json
import re

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals.curves import band, smooth
from moejax.evals.report import write_report
from moejax.evals.report_contents import Report
from moejax.evals.report_results import text_table
from moejax.evals.run_folders import collect_runs
from moejax.evals.run_groups import grouped
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


class Outline(html.parser.HTMLParser):
    """What is on a page: tables as lists of rows of cells, text by tag, ids, and tags that were not closed."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tables, self.texts, self.ids, self.links, self.open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        fields = dict(attributes)
        self.ids += [fields["id"]] if "id" in fields else []
        self.links += [fields["href"]] if tag == "a" else []
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def table(self, *, having):
        return next(table for table in self.tables if any(having in row for row in table))


def written(folder, name, seed, *, task, rows, **config):
    folder.mkdir(parents=True)
    whole = {"name": name, "seed": seed, "task": {"name": task}, "train": {"steps": 20}} | config
    (folder / "config.json").write_text(json.dumps(whole))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(metric, values, *, finished=True):
    rows = [
        {"step": 10 * i, "time": 60.0 * i, "train/loss": v, f"valid/{metric}": v, "block_01/load": [0.75, 0.25]}
        for i, v in enumerate(values, 1)
    ]
    return [*rows, {"step": 10 * len(values), "time": 130.0, f"test/{metric}": values[-1]}] if finished else rows


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Diffusion with two settings and two seeds, one run of text, one that was killed, and one that cannot be read."""
    root = tmp_path_factory.mktemp("compared")
    for seed, shift in ((0, 0.0), (1, 0.25)):
        fast = {"optimizer": {"learning_rate": 0.5}}
        written(root / f"a{seed}", "dit", seed, task="diffusion", rows=rows_of("loss", [2.0, 1.0 + shift]),
                optimizer={"learning_rate": 0.25})  # fmt: skip
        written(root / f"b{seed}", "dit", seed, task="diffusion", rows=rows_of("loss", [2.0, 1.5 + shift]), **fast)
    killed = rows_of("loss", [float("nan")], finished=False)
    written(root / "killed", "other <dit>", 0, task="diffusion", rows=killed)
    bits = {"best_metric": "valid/bits_per_byte", "best_mode": "min", "steps": 20}
    written(root / "text", "bytes", 0, task="language", rows=rows_of("bits_per_byte", [3.0, 2.0]), train=bits)
    (root / "wrong").mkdir()
    (root / "wrong" / "metrics.jsonl").write_text("")
    start = {"step": 0, "command": "python experiments/train.py --config 'a b' --workdir a0", "folder": "/home/me"}
    start |= {
        "git": {"commit": "0123abc", "changed": True},
        "versions": {"jax": "0.10.2"},
        "device": "cpu",
        "devices": 2,
    }
    start |= {"date": "2026-11-30T06:00:00+00:00"}
    again = start | {"step": 10, "command": "python experiments/train.py --config other --workdir a0"}
    (root / "a0" / "environment.json").write_text(json.dumps({"starts": [start, start, again]}))
    runs, broken = collect_runs([root])
    report = Report(runs=grouped(runs), broken=broken, title="Runs compared", environment={"On": "1 x cpu"})
    path = write_report(report, root / "report", write_json=True)
    return path, Outline(path.read_text())


def test_a_page_of_several_tasks_is_whole(compared):
    path, outline = compared
    assert outline.open == []
    assert [link for link in outline.links if link[1:] not in outline.ids] == []
    assert len(outline.ids) == len(set(outline.ids)) and {"open", "numbers", "differences", "learning", "run"} <= set(
        outline.ids
    )
    assert not re.search(r"@import|url\(|<script|https?://(?!www.w3.org)", path.read_text())
    assert "prefers-color-scheme: dark" in path.read_text() and 'name="viewport"' in path.read_text()
    pictures = {p.name for p in path.parent.glob("*.png")}
    assert {"learning_curves_diffusion.png", "learning_curves_diffusion_by_time.png"} <= pictures
    assert {"learning_curves_language.png", "load_over_training.png"} <= pictures
    assert "accuracy_against_cost.png" not in pictures  # there is no accuracy


def test_seeds_become_means_with_errors(compared):
    _, outline = compared
    table = outline.table(having="dit, learning_rate 0.25")
    assert table[0] == ["", "seeds", "validation loss", "test loss"]
    # 1 and 1.25: mean 1.125; their deviation is 0.25 / sqrt(2), its error over two seeds 0.125.
    assert table[1] == ["dit, learning_rate 0.25", "2", "1.125 ± 0.12", "1.125 ± 0.12"]
    assert table[2] == ["dit, learning_rate 0.5", "2", "1.625 ± 0.12", "1.625 ± 0.12"]
    assert table[3] == ["other <dit>", "0 of 1", "–", "–"]
    assert outline.table(having="bytes")[:2] == [["", "seeds", "validation bits per byte", "test bits per byte"],
                                                 ["bytes", "1", "2", "2"]]  # fmt: skip
    leads = [text for tag, text in outline.texts if tag == "p"]
    assert any(text.startswith("Diffusion: dit, learning_rate 0.25 has the lowest test loss") for text in leads)


def test_what_differs_and_what_is_not_finished_is_said(compared):
    _, outline = compared
    table = outline.table(having="optimizer.learning_rate")
    assert table[0] == ["", "dit, learning_rate 0.25", "dit, learning_rate 0.5", "other <dit>"]
    assert table[1:] == [["optimizer.learning_rate", "0.25", "0.5", "–"]]
    states = {row[0].rpartition("/")[2]: row[1] for row in outline.table(having="state")}
    assert states["killed"] == "killed or crashed after step 10 of 20; no checkpoint"
    assert states["wrong"].startswith("not read: ") and "config.json does not exist" in states["wrong"]


def test_commands_are_there_to_be_repeated(compared):
    _, outline = compared
    (text,) = [data for tag, data in outline.texts if tag == "pre" and "experiments/train.py" in data]
    assert text.splitlines() == [
        "# from step 0",
        "cd /home/me",
        "python experiments/train.py --config 'a b' --workdir a0",
        "# from step 10",  # the second start had the same command
        "cd /home/me",
        "python experiments/train.py --config other --workdir a0",
        "# commit 0123abc, with changes that are in no commit",
        "# jax 0.10.2",
    ]
    assert sum("command was not recorded" in data for _, data in outline.texts) == 5
    (row,) = [row for row in outline.table(having="minutes") if row[-1].endswith("/a0")]
    assert row[:3] == ["dit, learning_rate 0.25", "0", "finished"] and row[5:7] == ["2026-11-30", "2 x cpu"]


def test_the_numbers_are_there_as_json(compared):
    path, _ = compared
    found = json.loads((path.parent / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    model = found["tasks"]["diffusion"]["models"]["dit, learning_rate 0.25"]
    assert model["seeds"] == [0, 1] and model["metrics"]["test/loss"] == {
        "mean": 1.125,
        "standard_error": 0.125,
        "count": 2,
    }
    assert found["tasks"]["language"]["judged_by"] == {"name": "valid/bits_per_byte", "higher_is_better": False}
    runs = {run["folder"].rpartition("/")[2]: run for run in found["runs"]}
    assert runs["killed"]["last"]["train/loss"] is None  # not a number
    assert [one["step"] for one in runs["a0"]["commands"]] == [0, 10] and runs["a1"]["commands"] == []
    assert [one["folder"].rpartition("/")[2] for one in found["broken"]] == ["wrong"]
