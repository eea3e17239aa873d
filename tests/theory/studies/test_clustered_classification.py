"""Clustered patches as they are defined, entropies by hand, and the mixture that finds the clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.studies.clustered_classification import (
    ClusteredClassification,
    clustered_patches,
    dispatch_entropy,
    orthonormal,
)


def small(**fields):
    sizes = {"num_examples": 60, "network_examples": 80, "num_test": 40, "epochs": 4, "network_epochs": 3}
    return ClusteredClassification(**(sizes | {"record_every": 2, "num_seeds": 3} | fields))


@pytest.mark.slow
def test_the_cubic_mixture_finds_the_clusters():
    study = ClusteredClassification(num_seeds=3, epochs=160, record_every=80, num_test=1000)
    found = study.estimates("setting=1-moe-cubic")
    assert found["accuracy"].mean() > 97
    assert np.all(found["entropy"][:, 0] > 1.35) and np.all(found["entropy"][:, -1] < 0.69)


def test_every_example_holds_its_feature_centre_and_the_feature_of_another():
    draw = np.random.default_rng(0)
    directions = orthonormal(draw, 8, 50)
    np.testing.assert_allclose(directions @ directions.T, np.eye(8), atol=1e-12)
    patches, label, cluster = clustered_patches(draw, 200, directions[:4], directions[4:], 0.0)
    along = patches @ directions.T.astype(np.float32) / 10  # [examples, patches, direction]
    total = along.sum(axis=1)
    rows = np.arange(200)
    own, centre = total[rows, cluster], total[rows, 4 + cluster]
    assert np.all(np.sign(own) == 2 * label - 1) and np.all((np.abs(own) > 0.499) & (np.abs(own) < 2.001))
    assert np.all((centre > 0.999) & (centre < 2.001))
    others = np.abs(total)
    others[rows, cluster] = others[rows, 4 + cluster] = 0
    assert np.all((others > 0.01).sum(axis=1) == 1) and np.all(others[:, 4:] < 1e-5)
    # Places are shuffled: the centre is found in all four.
    assert set(np.argmax(np.abs(along[rows, :, 4 + cluster]), axis=1)) == {0, 1, 2, 3}


def test_entropies_by_hand():
    even = jnp.full((4, 2), 3.0)
    assert float(jax.jit(dispatch_entropy)(even)) == pytest.approx(np.log(4))
    # expert 1: one cluster, 6 examples, entropy 0; expert 2: two clusters equally, 2 examples, log 2; expert 3: nobody
    counts = jnp.asarray([[6.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert float(jax.jit(dispatch_entropy)(counts)) == pytest.approx(np.log(2) / 4, rel=1e-6)


def test_a_run_again_gives_the_same_and_every_number_is_found():
    study = small()
    raw = {part: study.estimates(part) for part in study.parts}
    again = study.estimates("setting=2-moe-cubic")
    for name, values in raw["setting=2-moe-cubic"].items():
        np.testing.assert_array_equal(values, again[name])
    assert raw["setting=1-moe-linear"]["entropy"].shape == (3, 3)
    assert raw["setting=1-moe-linear"]["dispatch"].sum() == 3 * 40
    findings = study.findings(raw)
    assert len(findings) == len(study.expected) == 12 and all(np.isfinite(one.measured) for one in findings)
    assert [len(curve.x) for curve in study.chart(raw).curves] == [3] * 4


def test_linear_filters_of_the_summed_patches_are_those_of_each():
    from moejax.theory.studies.clustered_classification import _filtered, _first_filters

    params = _first_filters(jax.random.key(0), 3, 2, 1.0)
    x = jax.random.normal(jax.random.key(1), (5, 4, 50))
    rows = np.einsum("bpd,decf->bpecf", x, params["kernel"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(_filtered(params, x, False), rows.sum(axis=(1, 4)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(_filtered(params, x, True), (rows**3).sum(axis=(1, 4)), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_is_refused():
    with pytest.raises(SpecError, match="at least 3"):
        small(num_seeds=2)
    with pytest.raises(SpecError, match="multiple of record_every"):
        small(epochs=5)
