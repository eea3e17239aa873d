"""Training in several local processes, and what happens when one of them is killed; prints JSON. Started by the tests.

  python -m tests.train.several_processes FOLDER [KILLS]

Prints one line for every kill: [process that was killed, exit code of the other, seconds until it ended, whether it said why,
whether the run was resumed to its end with the parameters of an undisturbed one].
"""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from moejax.train.checkpoints import Checkpoints
from tests.child_programs import ROOT, environment

STEPS, SAVES = 30, 5
BOUND = 60  # seconds within which the others must have ended


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(folder, count, *flags, devices=1, model="vmoe", joined=False):
    """The processes of one run, each with its own log `FOLDER.0.log` ... joined: one alone joins as several do."""
    folder = pathlib.Path(folder)
    coordinator = f"127.0.0.1:{free_port()}"
    processes = []
    for index in range(count):
        # Libraries split sums by the number of threads, which is otherwise that of cores or of the process's devices.
        env = environment(devices, NPROC=str(max(os.cpu_count() or 1, count * devices)))
        if joined:
            env |= {"JAX_NUM_PROCESSES": "1"}
        elif count > 1:
            env |= {
                "JAX_COORDINATOR_ADDRESS": coordinator,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            }
        command = [sys.executable, str(ROOT / "experiments/train.py"), f"--workdir={folder}", "--quiet"]
        command += [
            f"--config={ROOT}/configs/vit/patchwork.py:smoke,model={model}",
            "--config.train.processes.heartbeat=10",
        ]
        command += ["--config.train.processes.start=always"] * joined
        with (folder.parent / f"{folder.name}.{index}.log").open("w") as log:
            processes.append(subprocess.Popen([*command, *flags], env=env, stdout=log, stderr=log))
    return processes


def log_of(folder, index):
    folder = pathlib.Path(folder)
    return (folder.parent / f"{folder.name}.{index}.log").read_text()


def end(processes, seconds=600):
    """Their exit codes; those that are not done in time are killed."""
    until = time.monotonic() + seconds
    try:
        return [one.wait(max(until - time.monotonic(), 0.1)) for one in processes]
    finally:
        for one in processes:
            one.kill()


def leaves_of(folder):
    with Checkpoints(pathlib.Path(folder) / "checkpoints") as checkpoints:
        return checkpoints.restore().leaves


def largest_difference(one, other):
    """Between two runs, over all float leaves, relative to the leaf's largest entry."""
    assert one.keys() == other.keys()
    pairs = [(a, other[name]) for name, a in one.items() if np.issubdtype(a.dtype, np.floating)]
    return max(float(np.max(np.abs(a - b)) / max(float(np.max(np.abs(b))), 1e-12)) for a, b in pairs if a.size)


def long_run(folder, count, devices=1, joined=False):
    """Of `STEPS` steps with a checkpoint every `SAVES`, on all devices of all processes along mesh axis `expert`."""
    total = count * devices
    flags = [f"--config.train.steps={STEPS}", f"--config.train.checkpoint_every={SAVES}", "--config.train.eval_every=0"]
    flags += ["--config.train.log_every=1", "--config.train.mesh.data=1", f"--config.train.mesh.expert={total}"]
    return start(folder, count, *flags, "--config.model.moe.group_size=16", devices=devices, joined=joined)


def wait_for_step(folder, step, processes, seconds=300):
    """Returns when the run has written a row of `step`."""
    until, rows = time.monotonic() + seconds, pathlib.Path(folder) / "metrics.jsonl"
    while not (rows.exists() and len(rows.read_text().splitlines()) >= step):
        assert time.monotonic() < until and all(one.poll() is None for one in processes), log_of(folder, 0)
        time.sleep(0.02)


def killed(folder, kills, wanted):
    """A row for every kill: see above. wanted: the leaves that an undisturbed run ends with."""
    folder = pathlib.Path(folder)
    for number in range(kills):
        run, draw = folder / f"killed{number}", random.Random(number)
        processes = long_run(run, 2)
        wait_for_step(run, draw.randint(1, STEPS - 10), processes)
        time.sleep(draw.random() / 20)
        victim = number % 2
        processes[victim].send_signal(signal.SIGKILL)
        begin = time.monotonic()
        code = end(processes, BOUND)[1 - victim]
        seconds, said = time.monotonic() - begin, log_of(run, 1 - victim)
        resumed = end(long_run(run, 2)) == [0, 0] and largest_difference(leaves_of(run), wanted) == 0.0
        why = "another process has ended" in said or "another task died" in said
        yield [victim, code, round(seconds, 1), why, resumed]


def main(folder, kills):
    undisturbed = pathlib.Path(folder) / "undisturbed"
    assert end(long_run(undisturbed, 2)) == [0, 0], log_of(undisturbed, 0)
    for row in killed(folder, kills, leaves_of(undisturbed)):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
