"""Input norms by hand, and fewer ranks for queries and keys at the same budget."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.compress import compress
from moejax.compress.lorap import Lorap
from moejax.compress.statistics import from_rows
from moejax.core.errors import SpecError


def test_by_hand():
    rows = from_rows(np.array([[3.0, 1.0], [4.0, 0.0]]))  # column norms 5 and 1, however the columns mix
    made = Lorap().factorise(np.diag([1.0, 4.0]), rows)
    np.testing.assert_allclose(made.spectrum, [5, 4])
    np.testing.assert_allclose(made.u[:, :1] @ made.v[:1], np.diag([1.0, 0.0]), atol=1e-12)


def attention(dim=40):
    draw = np.random.default_rng(0)
    names = ("query", "key", "value", "out")
    params = {"attention": {name: {"kernel": jnp.asarray(draw.normal(size=(dim, dim)), jnp.float32)} for name in names}}
    rows = from_rows(draw.normal(size=(100, dim)))
    return params, {f"attention/{name}/kernel": rows for name in names}


def test_queries_and_keys_keep_a_third():
    params, statistics = attention()
    made = compress(params, method="lorap", budget=0.5, statistics=statistics)
    ranks = {row.name.split("/")[1]: row.ranks[0] for row in made.report.weights}
    assert ranks == {"query": 5, "key": 5, "value": 15, "out": 15}  # 40 ranks of 80 numbers are half of 4 * 1600
    assert made.report.after == made.report.allowed == 3200


def test_equal_shares():
    params, statistics = attention()
    made = compress(params, method=Lorap(query_key_share=1.0), budget=0.5, statistics=statistics)
    assert {row.ranks for row in made.report.weights} == {(10,)}


def test_roles_by_name():
    spec = Lorap(query_key_share=0.5)
    assert [spec.share(name) for name in ("a/q_proj/kernel", "a/k", "a/v_proj", "blocks/query", "mlp/keyboard")] == [0.5, 0.5, 1, 0.5, 1]  # fmt: skip


def test_bad_fields():
    with pytest.raises(SpecError, match="query_key_share=0"):
        Lorap(query_key_share=0.0)
    with pytest.raises(SpecError, match="is not a regular expression"):
        Lorap(query_key="(")
