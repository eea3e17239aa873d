"""Truths by number, divergences by hand, fits that repeat; two experts are selected where two are true."""

import numpy as np
import pytest
from scipy.stats import norm

from moejax.core.errors import SpecError
from moejax.theory.studies.model_selection import ModelSelection, sample, true_log_density


def test_truths_are_densities_with_the_moments_of_their_samples():
    x, y = np.array([0.2]), np.linspace(-12, 8, 401)[None]
    first, second = norm.pdf(0.2, 0.2, np.sqrt(0.1)), norm.pdf(0.2, 0.8, np.sqrt(0.15))
    for case, means in (("linear", (1.0, 0.02)), ("parabolic", (1 - 1.2 + 0.04, -0.016))):
        density = np.exp(true_log_density(case, x, y))[0]
        assert density.sum() * 0.05 == pytest.approx(1.0)
        expected = (first * means[0] + second * means[1]) / (first + second)
        assert (density * y[0]).sum() * 0.05 == pytest.approx(expected)
    x, y = sample("linear", 400_000, np.random.default_rng(0))
    assert x.mean() == pytest.approx(0.5, abs=0.005)
    assert y.mean() == pytest.approx(0.5 * (2 - 5 * 0.2) + 0.5 * 0.08, abs=0.01)


def test_a_part_again_gives_the_same_and_every_rule_selects():
    study = ModelSelection(sizes=(200, 300, 400), replicates=5, num_experts=(1, 2, 3), max_steps=30)
    raw = {part: study.estimates(part) for part in study.parts}
    again = study.estimates("linear-200")
    np.testing.assert_array_equal(raw["linear-200"]["contrast"], again["contrast"])
    assert raw["linear-200"]["divergence"].shape == (5, 3) and np.all(raw["linear-200"]["divergence"] > 0)
    contrast = raw["linear-400"]["contrast"]
    assert np.all(contrast[:, 0] - contrast[:, 1] > 100)  # one line does not do for two
    experts, divergence = study.selected(raw["linear-400"], "dimension jump")
    assert set(experts) <= {1.0, 2.0, 3.0} and np.all(np.isfinite(divergence))
    broken = {"contrast": contrast * np.nan, "divergence": raw["linear-400"]["divergence"]}
    assert np.all(np.isnan(study.selected(broken, "dimension jump")[1]))
    assert len(study.findings(raw)) == 8 and len(study.chart(raw).curves) == 2


@pytest.mark.slow
def test_two_experts_are_selected_and_their_divergence_falls_as_one_over_n():
    study = ModelSelection(sizes=(1000, 2000, 4000), replicates=16, num_experts=(1, 2, 3, 5, 8))
    raw = {part: study.estimates(part) for part in study.parts if part.startswith("linear")}
    chosen = [study.selected(raw[f"linear-{n}"], "data-driven slope") for n in study.sizes]
    assert np.mean([experts == 2 for experts, _ in chosen]) > 0.75
    means = [divergence.mean() for _, divergence in chosen]
    assert np.polyfit(np.log(study.sizes), np.log(means), 1)[0] == pytest.approx(-1.0, abs=0.3)


def test_too_few_models_are_refused():
    with pytest.raises(SpecError, match=r"num_experts=\(1, 2\) must be at least 3 numbers"):
        ModelSelection(num_experts=(1, 2))
