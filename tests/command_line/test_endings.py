import subprocess
import sys

import pytest

from moejax.command_line.endings import exit_code
from moejax.core.errors import SpecError
from moejax.train.checkpoints import CheckpointError
from tests.child_programs import environment


def failing(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SpecError("a=1\nis   wrong."), 2, "error: a=1 is wrong.\n"),
        (CheckpointError("it is damaged."), 1, "error: it is damaged.\n"),
        (FileNotFoundError(2, "No such file", "x.npz"), 1, "error: [Errno 2] No such file: 'x.npz'\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, "error: [Errno 32] Broken pipe\n"),  # of a worker, not our output
        (ModuleNotFoundError("No module named 'torch'"), 1, "error: No module named 'torch'\n"),
        (
            MemoryError(),
            1,
            "error: unexpected MemoryError: ; run again with --debug for the trace, and please report it.\n",
        ),
        (
            KeyError("k"),
            1,
            "error: unexpected KeyError: 'k'; run again with --debug for the trace, and please report it.\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(None), 0, ""),
        (SystemExit(143), 143, ""),
        (SystemExit("said"), 1, "said\n"),
    ],
)
def test_how_errors_end(capsys, error, code, line):
    assert exit_code(failing(error), debug=False) == code
    assert capsys.readouterr() == ("", line)


def test_a_long_unexpected_error_is_cut_and_one_of_ours_is_not(capsys):
    assert exit_code(failing(RuntimeError("x" * 5000)), debug=False) == 1
    assert len(capsys.readouterr().err) < 800
    assert exit_code(failing(SpecError("x" * 5000)), debug=False) == 2
    assert len(capsys.readouterr().err) > 5000


def test_debug_shows_the_trace_of_an_error(capsys):
    assert exit_code(failing(SpecError("wrong.")), debug=True) == 2
    text = capsys.readouterr().err
    assert "Traceback" in text and "in action" in text and text.endswith("error: wrong.\n")


def test_debug_shows_the_trace_of_an_error_that_the_main_has_told(capsys):
    def action():
        try:
            raise SpecError("wrong.")
        except SpecError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    assert exit_code(action, debug=False) == 2
    assert capsys.readouterr().err == "error: wrong.\n"
    assert exit_code(action, debug=True) == 2
    assert "Traceback" in capsys.readouterr().err


def test_output_that_nobody_reads_ends_quietly():
    line = [sys.executable, "-m", "moejax.command_line", "list", "commands"]
    process = subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # before the child has begun
    assert process.stderr.read() == b""
    assert process.wait() == 141
