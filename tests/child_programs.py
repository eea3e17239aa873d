"""Programs in processes of their own: the number of devices is fixed when jax starts. They compile fast, as the tests do."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def environment(devices=None, **more):
    """That of the tests, with this checkout's packages, the tests' compiled programs, and this many simulated devices."""
    found = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    if devices is not None:
        found["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return found | more


def output_of(*arguments, devices=8, seconds=900, **variables):
    """What `python ARGUMENTS...` prints, with more environment; fails with its errors where it fails."""
    line = [sys.executable, *map(str, arguments)]
    done = subprocess.run(line, env=environment(devices, **variables), capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def lines_of(*arguments, **options):
    """The JSON of each line that it prints."""
    return [json.loads(line) for line in output_of(*arguments, **options).splitlines()]
