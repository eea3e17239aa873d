"""How a command ends: with a code, and with one line where something went wrong.

0    done
1    a run that failed; for some commands, a verdict (`moejax COMMAND --help` says which)
2    bad input: a command, flag, config or value that cannot be
130  interrupted by Ctrl-C;  143  ended by SIGTERM (128 + the signal's number)
141  whoever read the output has gone (`moejax list routers | head -1`)
"""

import contextlib
import os
import select
import sys
import traceback
from collections.abc import Callable

from moejax.core.errors import SpecError

LONGEST = 600  # letters of an unexpected error; compilers write pages


def exit_code(action: Callable[[], None], *, debug: bool) -> int:
    """Runs `action` and returns the code to end with; errors go to stderr as one line, with `debug` after their trace.

    Source: ours.
    """
    try:
        action()
        sys.stdout.flush()
        return 0
    except SystemExit as end:
        return _of_exit(end, debug=debug)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            return _quietly()
        if debug:
            traceback.print_exception(error)
        print(_line(error), file=sys.stderr)
        return 2 if isinstance(error, SpecError) else 1


def _of_exit(end: SystemExit, *, debug: bool) -> int:
    """The code of a main that ended itself. One that did so on an error has printed its line; the error is its context."""
    if debug and end.code and end.__context__ is not None:
        traceback.print_exception(end.__context__)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _quietly()
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _line(error: Exception) -> str:
    """Errors that say what to do are told as they are: our own classes, and those of the system and of missing packages."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    if type(error).__module__.partition(".")[0] in ("moejax", "moejax_kernels"):
        return f"error: {text}"
    if isinstance(error, (OSError, ImportError)):
        return f"error: {text or name}"
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"error: unexpected {name}: {text}; run again with --debug for the trace, and please report it."


def _reader_has_gone() -> bool:
    """Whether it is our output that nobody reads any more, and not some other pipe."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False


def _quietly() -> int:
    """What is still to be written goes nowhere, so that Python says nothing at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
