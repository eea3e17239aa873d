"""The compressor of CONTRIBUTING.md works, as if its file lay in moejax/compress."""

import importlib
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import moejax.compress
from moejax.compress.statistics import LeafStatistics
from moejax.linear.low_rank import LowRank


@pytest.fixture
def output_svd(root, tmp_path, monkeypatch):
    """The method's module, found under its name."""
    text = (root / "CONTRIBUTING.md").read_text("utf-8")
    (method,) = [
        block for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M) if "OutputSvd" in block
    ]
    (tmp_path / "output_svd.py").write_text(method, "utf-8")
    monkeypatch.setattr(moejax.compress, "__path__", [*moejax.compress.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield importlib.import_module("moejax.compress.output_svd")
    sys.modules.pop("moejax.compress.output_svd", None)
    vars(moejax.compress).pop("output_svd", None)


def test_it_is_optimal_in_its_norm(output_svd):
    # Outputs of mean square 1 and 16: scales 1 and 4 make diag(3, 2) into diag(3, 8), of which the second is kept.
    statistics = LeafStatistics(count=jnp.float32(2), output_sum=jnp.zeros(2), output_square=jnp.array([2.0, 32.0]))
    made = output_svd.EXAMPLES[0].factorise(np.diag([3.0, 2.0]), statistics)
    np.testing.assert_allclose(made.spectrum, [8, 3])
    np.testing.assert_allclose(made.u[:, :1] @ made.v[:1], np.diag([0.0, 2.0]), atol=1e-12)


def test_the_library_call_finds_it(output_svd):
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(12, 12)), jnp.float32)
    statistics = LeafStatistics(count=jnp.float32(50), output_sum=jnp.zeros(12), output_square=jnp.arange(1.0, 13.0))
    made = moejax.compress.compress(
        {"layer": {"kernel": kernel}}, method="output_svd", budget=0.5, statistics={"layer/kernel": statistics}
    )
    assert isinstance(made.params["layer"]["kernel"], LowRank)
    assert made.params["layer"]["kernel"].num_params() == 3 * 24
