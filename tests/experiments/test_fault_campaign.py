"""A small campaign of faults: nothing is lost, nothing is missed, and the page says so."""

import json
import subprocess
import sys

import pytest

from moejax.train.faults import bad_inputs, report
from tests.child_programs import environment
from tests.command_lines import typed


@pytest.mark.slow
def test_a_small_campaign(tmp_path, root):
    line = [sys.executable, "experiments/fault_campaign.py", f"--workdir={tmp_path / 'faults'}", "--seed=3"]
    line += ["--kills=6", "--corruptions=12", "--bad_inputs=10", f"--results={tmp_path / 'found.json'}"]
    done = subprocess.run(line, cwd=root, env=environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    killed, damaged, answers = found["killed"], found["damaged"], found["typed"]
    assert killed["kills"] == killed["resumed"] == 6 and killed["runs_finished"] >= 1 and not killed["runs_that_differ"]
    assert all(row["resumed_from"] == row["newest"] for row in killed["rows"])
    assert damaged["damages"] == damaged["detected"] == 12 and damaged["same_bits"] == damaged["runs"] == 4
    assert answers["inputs"] == answers["good"] == 10
    assert (tmp_path / "found.md").read_text() == report.page(found)


def test_the_page_of_the_docs_is_that_of_the_results(root):
    found = json.loads((root / "experiments" / "results" / "fault_campaign.json").read_text())
    assert (root / "docs" / "fault_campaign.md").read_text() == report.page(found)
    killed, damaged, answers = found["killed"], found["damaged"], found["typed"]
    assert killed["resumed"] == killed["kills"] == len(killed["rows"]) and not killed["runs_that_differ"]
    assert damaged["detected"] == damaged["damages"] >= 60 and damaged["same_bits"] == damaged["runs"]
    assert answers["good"] >= 50 and report.is_clean(found)
    for row in found["killed"]["rows"]:
        assert row["resumed_from"] == row["newest"] and row["damaged"] == 0


def test_there_are_fifty_different_wrong_commands():
    assert len({(given.script, given.arguments) for given in bad_inputs.INPUTS}) >= 50


@pytest.mark.slow
def test_wrong_campaigns(tmp_path, root):
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ([f"--workdir={tmp_path}"], "is not empty; give a new folder"),
        ([f"--workdir={tmp_path / 'new'}", "--parts=kiled"], "Did you mean 'killed'"),
        ([], "give one of them"),
        ([f"--render={tmp_path / 'nowhere.json'}"], "No such file"),
    ):
        done = typed(root, "fault_campaign.py", *arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and message in done.stderr
    assert not (tmp_path / "new").exists()
