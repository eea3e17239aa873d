"""SIGTERM, Ctrl-C, and what a second one does."""

import os
import signal
import subprocess
import sys

import pytest

from moejax.train.signals import Signals
from tests.child_programs import environment

PROGRAM = """
import os, signal, sys, time
from moejax.train.signals import Signals
grace = float(sys.argv[1]) or None
with Signals(grace) as signals:
    for name in sys.argv[2:]:
        os.kill(os.getpid(), getattr(signal, name))
        print(signals.received, signals.stop(), flush=True)
    time.sleep(5 if grace else 0)
"""


def test_a_signal_is_noted_once_and_the_old_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        assert not signals.stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop() and signals.received == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat it
        assert signals.stop() and signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grace", "names", "code", "says"),
    [
        ("0", ("SIGINT", "SIGINT"), 130, "stopped at once"),
        ("0", ("SIGTERM", "SIGTERM", "SIGINT"), 130, "stopped at once"),
        ("0.05", ("SIGTERM",), 1, "not saved within --grace_seconds=0.05 of the signal"),
    ],
)
def test_what_ends_the_process_at_once(grace, names, code, says):
    line = [sys.executable, "-c", PROGRAM, grace, *names]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.splitlines()[:1] == [f"{int(getattr(signal, names[0]))} True"]
