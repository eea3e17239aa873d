"""Cells and losses by hand, and the translation that softmax cannot see."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.voronoi import LOCATION_SCALE, MixingMeasure, aligned_loss, cells, total_cell_size, voronoi_loss


def measure(*atoms):
    """(log_mass, gate, weight, bias, variance) of every atom."""
    rows = np.array(atoms, np.float64)
    return MixingMeasure(
        rows[:, 0], {name: rows[:, i + 1 : i + 2] for i, name in enumerate(("gate", "weight", "bias", "variance"))}
    )


TRUE = measure((0.5, 1.0, 1.0, 2.0, 0.25), (0.0, 0.0, -1.0, -2.0, 0.36))


def test_one_atom_a_cell_counts_every_error_once():
    fitted = measure((0.5, 1.1, 1.0, 2.2, 0.25), (0.1, 0.0, -1.0, -2.0, 0.39))
    assert cells(fitted, TRUE).tolist() == [0, 1]
    found = voronoi_loss(fitted, TRUE, LOCATION_SCALE)
    wanted = np.exp(0.5) * (0.1 + 0.2) + np.exp(0.1) * 0.03 + abs(np.exp(0.1) - 1)
    assert found.loss == pytest.approx(wanted)
    assert found.errors["bias"].tolist() == pytest.approx([0.2, 0.0])
    assert found.errors["mass"].tolist() == pytest.approx([0.0, np.exp(0.1) - 1])


def test_two_atoms_in_a_cell_count_to_powers_four_and_two():
    half = 0.5 + np.log(0.5)
    fitted = measure((half, 1.0, 1.3, 2.2, 0.25), (half, 1.1, 1.0, 1.9, 0.15), (0.0, 0.0, -1.0, -2.0, 0.36))
    found = voronoi_loss(fitted, TRUE, LOCATION_SCALE)
    assert found.cells.tolist() == [0, 0, 1]
    wanted = np.exp(half) * ((0.3**2 + 0.2**4) + (0.1**4 + 0.1**4 + 0.1**2))
    assert found.loss == pytest.approx(wanted)
    assert found.errors["weight"].tolist() == pytest.approx([0.3, 0.0])


def test_a_top_one_loss_is_that_of_the_worst_cell():
    fitted = measure((0.5, 1.0, 1.0, 2.5, 0.25), (0.0, 0.0, -1.0, -2.1, 0.36))
    assert voronoi_loss(fitted, TRUE, LOCATION_SCALE, num_selected_experts=1).loss == pytest.approx(np.exp(0.5) * 0.5)


def test_an_empty_cell_misses_its_mass():
    fitted = measure((0.5, 1.0, 1.0, 2.0, 0.25), (-9.0, 1.0, 1.0, 2.0, 0.25))
    found = voronoi_loss(fitted, TRUE, LOCATION_SCALE)
    assert found.errors["mass"][1] == 1.0 and np.isnan(found.errors["bias"][1])


def test_translations_of_the_gates_change_nothing():
    rng = np.random.default_rng(0)
    fitted = measure(
        *(rng.normal(size=5) * 0.05 + row for row in np.column_stack([TRUE.log_mass, *TRUE.atoms.values()]))
    )
    reference = aligned_loss(fitted, TRUE, LOCATION_SCALE).loss
    for log_mass, gate in ((1.0, 0.0), (0.0, 5.0), (-2.0, -3.0)):
        moved = fitted.translated(log_mass, np.array([gate]))
        assert aligned_loss(moved, TRUE, LOCATION_SCALE).loss == pytest.approx(reference)
        assert voronoi_loss(moved, TRUE, LOCATION_SCALE).loss > 2 * reference
    assert aligned_loss(TRUE.translated(3.0, np.array([-7.0])), TRUE, LOCATION_SCALE).loss == pytest.approx(
        0.0, abs=1e-12
    )


def test_a_duplicated_reference_atom_is_no_error_once_aligned():
    """Two clones of the second atom with its gate each: as it is, its mass is doubled; translated by log 2 the loss vanishes."""
    clones = measure((0.5 + np.log(2), 1.0, 1.0, 2.0, 0.25), (0.0, 0.0, -1.0, -2.0, 0.36), (0.0, 0.0, -1.0, -2.0, 0.36))
    assert voronoi_loss(clones, TRUE, LOCATION_SCALE).errors["mass"][1] == pytest.approx(1.0)
    assert aligned_loss(clones, TRUE, LOCATION_SCALE).loss == pytest.approx(0.0, abs=1e-12)


def test_how_many_experts_a_fitted_gate_must_select():
    assert total_cell_size(np.array([0, 0, 1, 2]), 3, 1) == 2
    assert total_cell_size(np.array([0, 0, 1, 2]), 3, 2) == 3
    assert total_cell_size(np.array([0, 0, 0]), 3, 2) == 3


def test_what_does_not_fit_is_named():
    with pytest.raises(SpecError, match="3 atoms in 'gate', but 2 masses"):
        MixingMeasure(np.zeros(2), {"gate": np.zeros((3, 1))})
    with pytest.raises(SpecError, match=r"no power for \['variance'\]"):
        voronoi_loss(TRUE, TRUE, {name: power for name, power in LOCATION_SCALE.items() if name != "variance"})


def test_a_true_atom_may_have_its_own_powers():
    """Two fitted atoms 0.1 and 0.2 from the one true atom, masses one half: powers 2 by default, 3 for this cell."""
    true = MixingMeasure(np.zeros(1), {"bias": np.zeros((1, 1))})
    pair = MixingMeasure(np.log([0.5, 0.5]), {"bias": np.array([[0.1], [0.2]])})
    square, cube = {"bias": lambda atoms: 2.0}, {"bias": lambda atoms: 3.0}
    assert voronoi_loss(pair, true, square).loss == pytest.approx(0.5 * 0.01 + 0.5 * 0.04)
    own = voronoi_loss(pair, true, square, cell_powers={0: cube})
    assert own.loss == pytest.approx(0.5 * 0.001 + 0.5 * 0.008)
