"""Rays by name, errors by hand, parts that repeat; the gate's scores are those of the routers."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.routing.gates.cosine import Cosine
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.studies.bounded_gates import CASES, MODELS, BoundedGates, free, truth


def test_only_the_lengths_of_a_cosine_are_flat():
    study = BoundedGates()
    for case in ("laplace", "perturbed cosine"):
        rays, least = study.rays(case)
        assert rays == () and least > 1e-3
    (ray,), least = study.rays("cosine")
    # Along (1.5, 0.5), the kernel itself.
    assert dict(ray.change) == pytest.approx({"gate kernel 0 0": 1.0, "gate kernel 1 0": 1 / 3})
    assert abs(least) < 1e-12
    (back,), _ = study.rays("perturbed cosine", temperature=True)
    assert set(back.change) == {"gate kernel 0 0", "gate kernel 1 0", "gate log_temperature"}


def test_errors_by_hand():
    study = BoundedGates()
    # As `ravel_pytree` packs them: biases of the experts, of the gate, kernels, logarithms of variances, weights.
    gate, place = truth("laplace")["gate"], 18 / 23
    np.testing.assert_allclose(gate["kernel"], [[place, -place]])
    packed = np.array([2.0, -2.0, 0.3, 0.0, place, -place, np.log(0.25), np.log(0.36), 1.0, -1.0])
    moved = packed.copy()
    moved[[0, 4, 5]] += [0.1, 0.2, -0.3]
    found = study.errors("laplace", {"params": np.stack([packed, moved]), "slope": np.array([0.0, 0.0])})
    assert found["gate kernel"] == pytest.approx([0.0, 0.3]) and found["bias"] == pytest.approx([0.0, 0.1])
    assert found["D1"] == pytest.approx([0.0, np.exp(0.3) * (0.1 + 0.2) + 0.3])
    lost = study.errors("laplace", {"params": packed[None], "slope": np.array([1.0])})
    assert all(np.isnan(values[0]) for values in lost.values())


def test_a_part_again_gives_the_same_and_pinned_numbers_stay():
    study = BoundedGates(sizes=(10_000, 20_000, 40_000), replicates=5, iterations=15)
    raw = {part: study.estimates(part) for part in study.parts}
    np.testing.assert_array_equal(study.estimates("laplace-10000")["params"], raw["laplace-10000"]["params"])
    for case in CASES:
        own = raw[f"{case.replace(' ', '_')}-40000"]["params"]
        np.testing.assert_array_equal(own[:, ~free(case)], np.tile(own[:1, ~free(case)], (5, 1)))
    found = {one.expected.quantity: one for one in study.findings(raw)}
    assert (
        found["cosine: gate kernel"].verdict == "not testable"
        and "gate kernel 0 0" in found["cosine: gate kernel"].reason
    )
    assert np.isfinite(found["perturbed cosine: gate kernel"].measured) and len(study.chart(raw).curves) == 5


def test_a_constant_input_has_no_inner_products_with_x():
    assert MODELS["cosine"].constant
    with pytest.raises(SpecError, match="constant=True"):
        GaussianMoE(select="inner", constant=True)
    with pytest.raises(SpecError, match="needs the gate 'linear'"):
        GaussianMoE(gate=Cosine(), select="inner")
