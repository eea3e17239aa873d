import shutil
import subprocess
import sys

import pytest

from moejax.command_line.completion import rejoined
from moejax.command_line.main import main
from tests.child_programs import environment


def answered(capsys, *words, breaks=" \t\n\"'><=;|&(:"):
    assert main(["completion", "--answer", breaks, "moejax", *words]) == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("typed", "breaks", "words"),
    [
        (["a", "--b", "=", "c", ":", "d"], "=:", ["a", "--b=c:d"]),
        (["a", "--b", "=", ""], "=:", ["a", "--b="]),
        (["a", "b:c"], "=", ["a", "b:c"]),
        (["a", "=", "c"], "", ["a", "=", "c"]),
        (["a", "b", ""], "=:", ["a", "b", ""]),
    ],
)
def test_words_that_the_shell_has_cut(typed, breaks, words):
    assert rejoined(typed, breaks) == words


def test_words_of_the_toy(toy, tmp_path, capsys):
    assert answered(capsys, "pl") == ["place-experts"]
    assert answered(capsys, "help", "tr") == ["train"]
    assert answered(capsys, "train", "--c") == ["--config", "--count"]
    assert answered(capsys, "train", "--config", "to") == ["toy/one"]
    assert answered(capsys, "train", "--config", "=", "to") == ["toy/one"]
    assert answered(capsys, "train", "--config", "toy/one", ":", "s") == ["seed=", "smoke"]
    assert answered(capsys, "train", "--config", "toy/one", ":", "model", "=", "x,s") == ["x,seed=", "x,smoke"]
    assert answered(capsys, "train", "--config", "toy/one", ":", "smoke,") == ["smoke,model=", "smoke,seed="]
    assert answered(capsys, "train", "--config=toy/one:sm", breaks="") == ["--config=toy/one:smoke"]
    assert answered(capsys, "train", "--count", "") == []  # the shell offers files
    assert answered(capsys, "nothing", "") == [] and answered(capsys, "train", "--nothing=") == []
    (tmp_path / "here" / "toys.py").write_text("")
    assert answered(capsys, "train", "--config", "to") == ["toy/one", "toys.py"]


def test_words_of_moejax_itself(capsys):
    assert answered(capsys, "list", "ga") == ["gates"]
    assert answered(capsys, "completion", "") == ["bash", "fish", "zsh"]
    assert answered(capsys, "--v") == ["--version"]
    assert "--noquiet" in answered(capsys, "train", "--no") and "--help" in answered(capsys, "train", "--h")
    assert answered(capsys, "evaluate", "--which", "") == ["best", "last"]
    assert answered(capsys, "evaluate", "--which=b", breaks="") == ["--which=best"]


@pytest.mark.parametrize("words", [[], ["bsh"], ["bash", "zsh"]])
def test_other_shells_are_refused(capsys, words):
    assert main(["completion", *words]) == 2
    assert "Allowed: bash, fish, zsh." in capsys.readouterr().err


@pytest.fixture
def bin_folder(tmp_path):
    """A folder with the command `moejax`, of this checkout."""
    path = tmp_path / "bin" / "moejax"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m moejax.command_line "$@"\n')
    path.chmod(0o755)
    return path.parent


def run_shell(shell, bin_folder, *line):
    env = environment()
    env["PATH"] = f"{bin_folder}:{env['PATH']}"
    done = subprocess.run([shell, *line], env=env, capture_output=True, text=True, cwd=bin_folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.splitlines()


BASH = """
eval "$(moejax completion bash)"
tab() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _moejax; echo "${COMPREPLY[*]}"; }
tab moejax tra
tab moejax list rou
tab moejax train --config = vit/patchw
tab moejax train --config vit/patchwork : mo
tab moejax train --workdir /
complete -p moejax
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes(bin_folder):
    assert run_shell("bash", bin_folder, "--norc", "-c", BASH) == [
        "train",
        "routers",
        "vit/patchwork",
        "model=",
        "",
        "complete -o default -F _moejax moejax",
    ]


@pytest.mark.skipif(not shutil.which("fish"), reason="there is no fish")
def test_fish_completes(bin_folder):
    script = "moejax completion fish | source; complete -C 'moejax tra'; complete -C 'moejax train --config vit/patchw'"
    assert run_shell("fish", bin_folder, "--no-config", "-c", script) == ["train", "vit/patchwork"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="there is no zsh")
def test_zsh_asks_for_the_words_up_to_the_cursor(bin_folder):
    script = """
    compdef() { : } ; eval "$(moejax completion zsh)"
    compadd() { print -r -- "${@:#-*}" } ; _files() { print files }
    words=(moejax train --config vit/patchw later); CURRENT=4; _moejax
    words=(moejax train --config vit/patchwork:mo); CURRENT=4; _moejax
    words=(moejax train --workdir /); CURRENT=4; _moejax
    """
    found = [line.strip() for line in run_shell("zsh", bin_folder, "-f", "-c", script)]
    assert found == ["vit/patchwork", "vit/patchwork:model=", "files"]
