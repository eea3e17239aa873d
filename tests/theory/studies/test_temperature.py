"""Gates with a flat ray and gates without: the eigenvalues by number, the ray by name, the rates where there are any."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.identifiability import flat_directions, least_eigenvalue
from moejax.theory.rates import rate
from moejax.theory.studies.temperature import LearnedTemperature


@pytest.mark.parametrize("router, least", [("identity", 0.0), ("relu", 0.0), ("tanh", 1.8e-3), ("gelu", 6e-4)])
def test_least_eigenvalues_and_the_ray(router, least):
    information, names = LearnedTemperature().information(router)
    assert least_eigenvalue(information) == pytest.approx(least, abs=1e-12, rel=0.05)
    rays = flat_directions(information, names)
    assert len(rays) == (least == 0.0)
    for ray in rays:  # bias 0.3, kernel 2 and the logarithm of the temperature, all times the same number
        assert dict(ray.change) == pytest.approx(
            {"gate bias 0": 0.15, "gate kernel 0 0": 1.0, "gate log_temperature": 0.5}
        )


def test_a_part_again_gives_the_same_and_what_is_flat_has_no_number():
    study = LearnedTemperature(routers=("identity",), sizes=(1000, 2000, 4000), replicates=5)
    raw = {part: study.estimates(part) for part in study.parts}
    np.testing.assert_array_equal(study.estimates("identity-1000")["kernel"], raw["identity-1000"]["kernel"])
    assert raw["identity-1000"]["kernel"].shape == (5,) and np.all(raw["identity-1000"]["slope"] < 1e-6)
    # Along the ray the likelihood bends by no more than the gradient that is left: it is flat where that is zero.
    assert np.all(np.abs(raw["identity-1000"]["curvature"]) < 1e-12 + raw["identity-1000"]["slope"])
    found = {one.expected.quantity: one for one in study.findings(raw)}
    for name in ("temperature", "kernel", "bias"):
        one = found[f"identity: {name}"]
        assert one.verdict == "not testable" and np.isnan(one.measured)
        assert "gate bias 0 : gate kernel 0 0 : gate log_temperature) along (0.15 : 1 : 0.5)" in one.reason
    assert found["identity: least eigenvalue of the Fisher information"].verdict == "confirmed"
    assert np.isfinite(found["identity: kernel / temperature"].measured)
    assert len(study.chart(raw).curves) == 2


@pytest.mark.slow
def test_activations_that_are_no_scaling_restore_the_rate():
    study = LearnedTemperature(routers=("relu", "tanh"), sizes=(1000, 100_000, 10_000_000), replicates=24)
    raw = {part: study.estimates(part) for part in study.parts}
    stays = rate({n: study.errors(raw[f"relu-{n}"])["temperature"] for n in study.sizes}, summary="median")
    assert abs(stays.slope) < 0.1  # it ends where it starts
    found = {one.expected.quantity: one for one in study.findings(raw)}
    for name in ("tanh: temperature", "tanh: kernel", "relu: kernel / temperature", "relu: bias / temperature"):
        assert found[name].verdict == "confirmed" and found[name].measured == pytest.approx(-0.5, abs=0.08)
        assert found[name].failed == 0


def test_routers_that_do_not_exist_are_refused():
    with pytest.raises(SpecError, match=r"routers=\('swish',\) must be some of"):
        LearnedTemperature(routers=("swish",))
