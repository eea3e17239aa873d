"""The moduli of a split cell: the fourth power for the bias, the second for all others. Nothing is sampled."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.divergences import between
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.polynomial_systems import two_atoms
from moejax.theory.softmax_gaussian import pack, unpack
from moejax.theory.studies.modulus import LATTICE, TRUTH, Modulus


def test_exponents():
    study = Modulus(distances=(0.3, 0.21, 0.105, 0.0525))
    raw = {part: study.estimates(part) for part in study.parts}
    place = 0  # between t = 0.3 and 0.21
    assert study.exponents(raw["bias"])[place] > 3.5
    assert study.exponents(raw["gate-kernel"])[place] == pytest.approx(2.0, abs=0.1)
    found = {one.expected.quantity: one for one in study.findings(raw)}
    assert found["bias"].measured == pytest.approx(4.0, abs=0.2) and found["bias"].expected.published == 4
    assert found["gate kernel"].measured == pytest.approx(2.0, abs=0.1)
    assert found["weight"].measured == pytest.approx(2.0, abs=0.15)
    assert found["log variance"].measured == pytest.approx(2.0, abs=0.15)
    assert {one.verdict for one in found.values()} == {"confirmed"}
    for one in raw.values():
        assert np.all(one["slope"] < 1e-7) and np.all(np.diff(one["kl"]) < 0)
        # Near the truth the divergence is four times the square of the distance with the factor one half.
        assert one["kl"][-1] == pytest.approx(4 * one["hellinger"][-1] ** 2, rel=0.05)
    # The atoms part as the one family of solutions of three orders says: both thinner, by the square of the distance.
    _, shifts, scales = two_atoms(Fraction(1))
    atom = raw["bias"]["params"][-1].reshape(3, 5)
    t = study.distances[-1]
    assert atom[:2, 3] - 2 == pytest.approx([t * float(shift) for shift in shifts], rel=0.05)
    assert np.exp(atom[:2, 4]) - 0.25 == pytest.approx([2 * t**2 * float(scale) for scale in scales], rel=0.05)
    assert {curve.label for curve in study.chart(raw).curves} == {"bias", "gate kernel", "weight", "log variance"}


def test_two_atoms_in_one_place_are_the_truth():
    rows = pack(TRUTH).reshape(-1, 5)
    twice = np.concatenate([rows[:1], rows])
    twice[:2, 0] -= np.log(2)
    with jax.enable_x64(True):
        found = between(GaussianMoE(), TRUTH, unpack(jnp.asarray(twice.reshape(-1))), LATTICE)
    assert found["kl"] == pytest.approx(0, abs=1e-15) and found["hellinger"] == pytest.approx(0, abs=1e-14)


def test_what_is_refused():
    with pytest.raises(SpecError, match="must be at least 2, descend and be positive"):
        Modulus(distances=(0.2, 0.4))
