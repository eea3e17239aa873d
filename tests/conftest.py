"""Settings that every test runs under: CPU, checked shape annotations, strict dtype and rank promotion.

Annotations of `moejax` and `moejax_kernels` are checked at every call (jaxtyping with beartype). Arithmetic that mixes
dtypes or ranks silently is an error; where a third-party library does so, the test (or the library call in question)
takes the fixture `lenient`, or is marked `@pytest.mark.lenient`. The update functions of optax do; they are wrapped below.
"""

import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
import contextlib
import functools
import gc
import importlib.metadata
from collections.abc import Iterator

# Tests compile thousands of small programs and run each a few times: compile fast, not well. What they start inherits this.
XLA_FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    XLA_FLAGS.append(
        "--xla_cpu_use_fusion_emitters=false"
    )  # half the time of a compilation; later versions have no such flag
os.environ.setdefault("XLA_FLAGS", " ".join(XLA_FLAGS))

import jax
import optax
import pytest
from jaxtyping import install_import_hook
from xdist.scheduler import LoadScopeScheduling

# Traces are millions of objects that all stay: looking for garbage among them after every few hundred is a fifth of the time.
gc.set_threshold(200_000, 20, 100)

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ("moejax", "moejax_kernels")

_early = sorted(name for name in sys.modules if name.split(".")[0] in OURS)
if _early:
    raise RuntimeError(f"{_early} were imported before tests/conftest.py; their annotations would go unchecked.")
install_import_hook(OURS, "beartype.beartype")

jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
if os.environ.get("MOEJAX_TEST_CACHE", "1") != "0":
    # Many tests compile the same small programs; the second worker and the second run read them from here.
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


# Files whose tests share what takes longest to make; one worker runs each of them.
TOGETHER = {
    "tests/experiments/test_demo_diffusion.py",
    "tests/experiments/test_score.py",
    "tests/train/test_processes.py",
    "tests/train/test_restructured.py",
}


def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadgroup` tests are spread one by one, but for the files above."""
    if config.getvalue("dist") != "loadgroup":
        return None

    class ByFileWhereShared(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return file if file in TOGETHER else nodeid

    return ByFileWhereShared(config, log)


@contextlib.contextmanager
def _promotion(dtypes: str, ranks: str) -> Iterator[None]:
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        yield


def _leniently(function):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with _promotion("standard", "allow"):
            return function(*args, **kwargs)

    return wrapped


# optax divides floats by integer step counts, in schedules, bias correction and accumulation.
_new_transformation = optax.GradientTransformation.__new__
optax.GradientTransformation.__new__ = lambda cls, init, update: _new_transformation(cls, init, _leniently(update))
optax.MultiSteps.update = _leniently(optax.MultiSteps.update)


@pytest.fixture(autouse=True)
def strict_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """No dtype is promoted and no axis added without being asked for, unless the test is marked `lenient`."""
    lenient = request.node.get_closest_marker("lenient") is not None
    with _promotion("standard", "allow") if lenient else _promotion("strict", "raise"):
        yield


@pytest.fixture
def lenient():
    """`with lenient():` around calls into a library that promotes dtypes or ranks."""
    return lambda: _promotion("standard", "allow")


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The repository's root folder."""
    return ROOT
