"""Scripts in forks of a process that has imported everything and has asked jax for nothing yet.

A fork is a process like any other: jax starts in it, it is killed by a real SIGKILL, its processor time is its own. Only the
seconds that every new Python spends on imports are spared. Source: ours.
"""

import contextlib
import json
import os
import pathlib
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from absl import flags


class Fork:
    """`python LINE...` in `folder`, in a fork of this process. What it prints goes to `output` and `errors`.

    Raises RuntimeError where this process has several threads, as a fork keeps only one of them.
    """

    def __init__(
        self,
        line: Sequence[str],
        *,
        folder: pathlib.Path,
        output: pathlib.Path,
        errors: pathlib.Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.output, self.errors = output, errors
        self.code: int | None = None
        self.cpu_seconds = 0.0
        self.begin = time.monotonic()
        self.pid = _fork()
        if self.pid == 0:
            _become([str(part) for part in line], folder, output, errors, environment or {})

    def ended(self, seconds: float) -> bool:
        """Waits at most this long; whether it has ended by itself or by a signal, with `code` and `cpu_seconds` set."""
        until = time.monotonic() + seconds
        while self.code is None:
            done, status, usage = os.wait4(self.pid, os.WNOHANG)
            if done:
                self.code = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
            elif time.monotonic() >= until:
                return False
            else:
                time.sleep(min(0.005, max(until - time.monotonic(), 0.0)))
        return True

    def computed(self, seconds: float) -> bool:
        """Waits until it has taken this much processor time; True where it has ended before.

        Unlike the time of the clock this does not depend on what else the machine does.
        """
        ticks = os.sysconf("SC_CLK_TCK")
        while not self.ended(0.004):
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
                if (int(fields[11]) + int(fields[12])) / ticks >= seconds:
                    return False
        return True

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.ended(60)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns in a fork, by way of JSON: it may start jax, which this process must not.

    Raises RuntimeError with the fork's own traceback.
    """
    reader, writer = os.pipe()
    child = _fork()
    if child == 0:
        os.close(reader)
        try:
            text, code = json.dumps(function(*arguments)), 0
        except BaseException:
            text, code = traceback.format_exc(), 1
        with os.fdopen(writer, "w") as pipe:
            pipe.write(text)
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"{function.__name__} failed in a fork:\n{text}")
    return json.loads(text)


def _fork() -> int:
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    if threads != 1:
        raise RuntimeError(f"a process with {threads} threads cannot be forked; fork before jax starts its backends.")
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def _forget_flags() -> None:
    """Those of our own main: the script defines its own."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.partition(".")[0] not in ("absl", "ml_collections"):
            for flag in list(defined):  # deleting one takes it out of the list
                delattr(flags.FLAGS, flag.name)
    flags.FLAGS.unparse_flags()


def _become(
    line: list[str],
    folder: pathlib.Path,
    output: pathlib.Path,
    errors: pathlib.Path,
    environment: Mapping[str, str],
) -> NoReturn:
    """The script, in this process."""
    code = 1
    try:
        for path, number in ((output, 1), (errors, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = line
        sys.path[0] = os.path.dirname(line[0])
        _forget_flags()
        runpy.run_path(line[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
