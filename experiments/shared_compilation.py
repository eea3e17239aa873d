"""The environment in which a main and the runs that it starts compile, set before jax starts."""

import os
from pathlib import Path

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"  # for XLA_FLAGS


def share_compiled(workdir: Path, *, one_thread: bool = True) -> None:
    """Compiled programs are kept in `workdir`, for this program and all that it starts.

    one_thread: one core for each program, so that runs side by side do not disturb each other.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(workdir.resolve() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    if one_thread:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
