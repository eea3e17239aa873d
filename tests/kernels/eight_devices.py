"""A program run by itself on eight simulated devices, as the number of devices is fixed when jax starts."""

import os
import pathlib
import subprocess
import sys


def output_of(program):
    """What the program prints; fails with its errors where it fails."""
    env = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2] / "kernels"),
    }
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
