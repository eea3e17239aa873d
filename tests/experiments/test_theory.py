"""Studies by the command line: one, all of a list with their page, and what is refused."""

import json

import pytest

from tests.command_lines import typed

pytestmark = pytest.mark.slow


def test_one_study_is_run_and_goes_on(root, tmp_path):
    line = ("theory.py", "--config=configs/theory/top_1.py:smoke", f"--workdir={tmp_path}", "--quiet")
    done = typed(root, *line)
    assert done.returncode == 0, done.stderr
    assert "| boundary |" in done.stdout and "not testable" in done.stdout
    assert json.loads((tmp_path / "config.json").read_text())["replicates"] == 5
    (tmp_path / "study.json").unlink()
    assert typed(root, *line).returncode == 0
    assert sorted(path.stem for path in (tmp_path / "parts").iterdir()) == ["100", "200", "400"]
    other = typed(root, *line, "--config.seed=1")
    assert other.returncode == 2 and "config.seed is 0 there and 1 here" in other.stderr
    few = typed(
        root, "theory.py", "--config=configs/theory/top_1.py", f"--workdir={tmp_path / 'few'}", "--config.replicates=2"
    )
    assert few.returncode == 2 and "5 replicates" in few.stderr and not (tmp_path / "few").exists()


def test_all_studies_end_on_one_page_whether_others_fail_or_not(root, tmp_path):
    line = ("theory.py", "--all", "--smoke", "--only=top_1,modulus", f"--workdir={tmp_path}")
    done = typed(root, *line)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "theory_report.html").read_text()
    assert page.count("<img") == 2 and "Top 1" in page and "did not finish" not in page
    part = next((tmp_path / "top_1" / "parts").iterdir())
    part.write_bytes(b"half")
    (tmp_path / "top_1" / "study.json").unlink()
    again = typed(root, *line)
    assert again.returncode == 1 and "top_1 failed, exit code 2" in again.stderr and part.name in again.stderr
    assert "top_1 did not finish" in (tmp_path / "theory_report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--all", "--only=top1"), "Did you mean 'top_1'"), ((), "give --config FILE, or --all")],
)
def test_wrong_flags(root, tmp_path, arguments, message):
    done = typed(root, "theory.py", f"--workdir={tmp_path}", *arguments)
    assert done.returncode in (1, 2) and message in done.stderr
