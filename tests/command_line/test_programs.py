import subprocess
import sys

import pytest

from moejax.command_line.main import main
from moejax.command_line.programs import as_typed, program, programs
from tests.child_programs import environment

QUIET = """
import sys
from moejax.command_line.main import main
assert [main(words) for words in (["--help"], ["train", "--help"], ["list", "routers"], ["completion", "--answer", "", "moejax", "tr"])] == [0] * 4
print(sorted({name.split(".")[0] for name in sys.modules} & {"jax", "jaxlib", "flax", "numpy", "absl", "ml_collections"}))
"""


def test_every_main_is_a_command_and_its_neighbours_are_none(root):
    mains = {p.stem for p in (root / "experiments").glob("*.py") if "\n    app.run(" in p.read_text()}
    assert {name.replace("-", "_") for name in programs()} == mains >= {"train", "evaluate", "summary", "place_experts"}
    assert program("flag-errors") is None and program("../train") is None and program("trian") is None
    assert next(iter(programs())) == "train"


def test_every_command_says_what_it_is():
    found = {p.name: p.help for p in programs().values()}
    assert [name for name, text in found.items() if not text or "\n" in text or not text.endswith((".", "?"))] == []


def test_help_lists_and_completion_import_nothing_but_python():
    done = subprocess.run([sys.executable, "-c", QUIET], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_commands_are_written_as_they_are_typed():
    text = "python experiments/place_experts.py --x 1; experiments/train.py; experiments/results/a.json"
    assert as_typed(text) == "moejax place-experts --x 1; moejax train; experiments/results/a.json"


def test_a_command_runs_with_its_neighbours_and_its_config(toy, capsys):
    assert main(["place-experts", "--config", "toy/one:smoke", "--count=2", "--debug"]) == 0
    out, err = capsys.readouterr()
    path = toy / "configs" / "toy" / "one.py"
    file = toy / "experiments" / "place_experts.py"
    assert out == f"said ['{file}', '--config', '{path}:smoke', '--count=2']\n"
    assert err == f"config: {path.resolve()}\n"


def test_the_list_of_commands(toy, capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "  train       Trains" not in out  # the toy's own docstring
    assert "  train       Says train, whatever happens.\n" in out
    assert out.index("  train ") < out.index("  list ") < out.index("  place-experts ")
    assert "  2    bad input" in out
    assert "neighbour" not in out


@pytest.mark.parametrize(
    "words", [["place-experts", "--count", "3", "--help"], ["help", "place-experts"], ["place-experts", "-h"]]
)
def test_the_help_of_a_command(toy, capsys, words):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "usage: moejax place-experts [FLAGS...]\n\nSays place_experts, whatever happens. More of it.\n"
    )
    assert "  moejax place-experts --count 3 --config configs/toy/one.py:smoke" in out
    assert "  --count N                  How often. (default: 1)\n" in out
    assert "--config.KEY=VALUE" in out and "said" not in out


def test_help_behind_two_dashes_belongs_to_the_command(toy, capsys):
    assert main(["train", "--", "--help", "--debug"]) == 0
    assert capsys.readouterr().out.endswith("train.py', '--', '--help', '--debug']\n")


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["trian"], "'train'"),
        (["help", "trian"], "'train'"),
        (["trian", "--help"], "'train'"),
        (["--trian"], "'train'"),
        (["lst"], "'list'"),
    ],
)
def test_a_misspelt_command(toy, capsys, words, near):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and f"Did you mean {near}" in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_real_command_from_another_folder(tmp_path):
    line = [sys.executable, "-m", "moejax.command_line", "summary", "--config", "vit/patchwork:model=vmoe"]
    done = subprocess.run(line, env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "896,285 parameters, 374,813 of them activated by a token." in done.stdout
