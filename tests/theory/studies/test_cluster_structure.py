"""Clusters whose low-order signals cancel, predictions and purity by hand, plateaus, and seeds that diverge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.studies.cluster_structure import ClusterStructure, clustered, predict, purity


def small(**fields):
    sizes = {"dim": 6, "width": 8, "steps": 20, "record_every": 10, "batch": 32, "num_test": 100, "num_seeds": 3}
    return ClusterStructure(**(sizes | fields))


@pytest.mark.slow
def test_the_router_finds_the_clusters_and_the_mixture_leaves_the_plateau_first():
    study = ClusterStructure(num_seeds=3, steps=2000)
    raw = {part: study.estimates(part) for part in study.parts}
    findings = {one.expected.quantity: one for one in study.findings(raw)}
    assert findings["router accuracy"].measured > 0.95
    assert findings["mixture first off the plateau"].measured == 1.0


def test_the_easy_signal_cancels_over_clusters():
    study = ClusterStructure(noise=0.0)
    x, y, cluster = (np.asarray(a) for a in jax.jit(lambda key: clustered(key, study, 200_000))(jax.random.key(0)))
    second = (x[:, 1] ** 2 - 1) / np.sqrt(2)
    assert abs(np.mean(y * second)) < 0.03 and np.mean(y * second * cluster) == pytest.approx(1, abs=0.03)
    assert np.mean(x[:, 0] * cluster) == pytest.approx(3, abs=0.02)
    own = np.where(cluster > 0, x[:, 2], x[:, 3])
    np.testing.assert_allclose(y - cluster * second, (own**4 - 6 * own**2 + 3) / np.sqrt(24), atol=1e-3)


def test_predictions_and_purity_by_hand():
    params = {
        "router": jnp.asarray([[1.0, 0.0], [0.0, 0.0]]),
        "kernel": jnp.asarray([[[1.0], [0.0]], [[0.0], [2.0]]]),
        "bias": jnp.asarray([[0.0], [1.0]]),
        "out": jnp.asarray([[3.0], [4.0]]),
        "offset": jnp.asarray([0.5, -1.0]),
    }
    x = jnp.asarray([[1.0, 0.0], [-1.0, 1.0]])
    found, chosen = jax.jit(predict)(params, x)
    weight = 1 / (1 + np.exp(-1.0))  # of the chosen expert, the first and the second
    np.testing.assert_allclose(found, [weight * (3 * 1 + 0.5), weight * (4 * 3 - 1)], rtol=1e-6)
    assert np.asarray(chosen).tolist() == [[1, 0], [0, 1]]
    # expert 1: clusters +, +, -; expert 2: -: three of four are of the cluster of most
    chosen = jax.nn.one_hot(jnp.asarray([0, 0, 0, 1]), 2)
    assert float(jax.jit(purity)(chosen, jnp.asarray([1.0, 1.0, -1.0, -1.0]))) == 0.75


def test_plateaus_end_at_the_first_record_below():
    study = small()
    assert study.plateau_ends(np.array([[0.9, 0.7], [0.5, 0.9], [0.9, 0.9]])).tolist() == [20, 10, np.inf]


def test_a_small_run_and_its_failures():
    study = small()
    raw = {part: study.estimates(part) for part in study.parts}
    assert raw["mixture"]["error"].shape == (3, 2) and np.all(np.isnan(raw["network"]["accuracy"]))
    assert len(study.findings(raw)) == 5 and len(study.chart(raw).curves) == 5
    lost = {name: {key: values.copy() for key, values in one.items()} for name, one in raw.items()}
    lost["network"]["error"][0] = np.nan
    assert {one.failed for one in study.findings(lost)} >= {1}
    lost["network"]["error"][:] = np.nan
    assert {one.verdict for one in study.findings(lost)} == {"not testable"}


def test_misuse_is_refused():
    with pytest.raises(SpecError, match="num_experts=3"):
        small(num_experts=3)
