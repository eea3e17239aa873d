"""Command lines of `experiments/` as a user types them, without the seconds that every new Python spends on imports.

`typed` forks a process that has imported everything and has asked jax for nothing yet; the fork gets its own arguments,
environment and folder, runs the script as `__main__`, and what it printed and its exit code come back.
"""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from tests.child_programs import ROOT, environment

IMPORTED = (
    "matplotlib.pyplot",
    "moejax.compress",
    "moejax.data.opening",
    "moejax.evals.diffusion_comparison",
    "moejax.evals.report",
    "moejax.train.loop",
    "sklearn.linear_model",
)


def typed(root, script, *arguments, seconds=900, **variables):
    """`python experiments/SCRIPT ARGUMENTS...` in `root`, with more environment: a subprocess.CompletedProcess."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = os.path.join(folder, "out"), os.path.join(folder, "err")
        line = [str(root / "experiments" / script), *map(str, arguments)]
        order = {
            "line": line,
            "folder": str(root),
            "environment": variables,
            "seconds": seconds,
            "out": out,
            "err": err,
        }
        server = _server()
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, f"the process that runs command lines has ended with {server.wait()}"
        code = json.loads(answer)
        assert code is not None, f"{line} was not done after {seconds} s"
        texts = [pathlib.Path(path).read_text() for path in (out, err)]
    return subprocess.CompletedProcess(line, code, *texts)


@functools.cache
def _server():
    """One for every process of the tests; it ends with it, as its input does."""
    env = environment(
        OPENBLAS_NUM_THREADS="1",  # so that no thread of its own is there to be lost in a fork
        PYTHONPATH=os.pathsep.join(str(ROOT / folder) for folder in (".", "kernels", "experiments")),
    )
    server = subprocess.Popen(
        [sys.executable, __file__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.stdin.close)
    return server


def serve():
    """Runs orders from the input until it ends."""
    for name in IMPORTED:
        __import__(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with several threads cannot be forked"
    for text in sys.stdin:
        order = json.loads(text)
        child = os.fork()
        if child == 0:
            _become(order)
        sys.stdout.write(json.dumps(_ended(child, order["seconds"])) + "\n")
        sys.stdout.flush()


def _ended(child, seconds):
    """The exit code of a fork; None where it had to be killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _become(order):
    """The script, in this process; never returns."""
    for path, number in ((order["out"], 1), (order["err"], 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = order["line"]
    sys.path[0] = os.path.dirname(order["line"][0])
    code = 1
    try:
        runpy.run_path(order["line"][0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = _code(end.code)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _code(given):
    if given is None or isinstance(given, int):
        return given or 0
    print(given, file=sys.stderr)
    return 1


if __name__ == "__main__":
    serve()
