"""Bounds by hand, verdicts, and the choice among meshes."""

import dataclasses

import pytest

from moejax.planning.chips import Chip
from moejax.planning.collectives import Collective
from moejax.planning.estimate import best, estimate, gib, table, verdict
from moejax.planning.picture import draw
from moejax.planning.products import Products
from moejax.planning.step import Step

CHIP = Chip(memory=2**30, flops=1e12, bandwidth=1e11, link=1e10, axes=2)
STEP = Step(
    held={"parameters": 10**8, "optimiser": 2 * 10**8}, temporaries=10**8, peak=5 * 10**8,
    collectives=(Collective("all-to-all", 4 * 10**6, 4, 3),), seconds=1.5,
)  # fmt: skip
COSTS = {"padding_flops": 2e8, "again_flops": 0.0, "activated_flops": 1.8e9, "activation_bytes": 7e7}


def test_by_hand():
    found = estimate("data=4", STEP, CHIP, **COSTS)
    assert found.needed == 5e8 and found.fits
    assert found.sent == {"all-to-all": 3 * 4e6 * 3 / 4}
    assert found.compute_seconds == pytest.approx(2e-3)
    assert found.memory_seconds == pytest.approx(2 * (3e8 + 1e8) / 1e11)
    assert found.wire_seconds == pytest.approx(9e6 / 1e10)
    assert (found.bound_by, found.bound_seconds) == ("memory", found.memory_seconds)
    assert verdict(found) == "fits: 0.47 GiB of 1.00 GiB"
    assert found.to_dict()["fits"] is True


def test_counted_products_go_before_arithmetic():
    counted = dataclasses.replace(STEP, products=Products(dense=2.4e9, kernels=3e8, again=6e8, unknown=0))
    found = estimate("data=4", counted, CHIP, **COSTS)
    assert found.counted and (found.flops, found.again_flops) == (2.7e9, 6e8)
    assert found.executed_of_activated == pytest.approx(2.1 / 1.8)  # what is computed again is no padding
    assert found.compute_seconds == pytest.approx(2.7e-3)
    hidden = dataclasses.replace(STEP, products=Products(dense=2.4e9, kernels=0.0, again=0.0, unknown=2))
    found = estimate("data=4", hidden, CHIP, **COSTS | {"again_flops": 5e8})
    assert not found.counted and found.flops == 2.5e9 and found.executed_of_activated == pytest.approx(2 / 1.8)


def test_without_a_compiler():
    found = estimate("data=4", Step(held=STEP.held), CHIP, **COSTS)
    assert found.peak is None and found.sent == {}
    assert found.needed == 3e8 + 7e7
    assert found.memory_seconds == pytest.approx(2 * (3e8 + 7e7) / 1e11)


def test_what_does_not_fit():
    large = dataclasses.replace(STEP, peak=3 * 2**29)
    found = estimate("data=4", large, CHIP, **COSTS)
    assert not found.fits and "does not fit: short by 0.50 GiB of 1.00 GiB; try more chips" in verdict(found)
    broken = dataclasses.replace(STEP, peak=None, temporaries=None, out_of_memory="Ran out of memory on HBM")
    assert "does not fit (Ran out of memory on HBM); try" in verdict(estimate("data=4", broken, CHIP, **COSTS))


def test_best_is_the_least_bound_that_fits():
    slow = estimate("slow", STEP, CHIP, **COSTS)
    quick = estimate("quick", dataclasses.replace(STEP, temporaries=10**7), CHIP, **COSTS)
    large = estimate("large", dataclasses.replace(STEP, temporaries=0, peak=2**31), CHIP, **COSTS)
    assert best([slow, large, quick]) is quick
    assert best([large]) is None


def test_table():
    rows = table([estimate("data=4", STEP, CHIP, **COSTS)]).splitlines()
    assert (
        rows[2]
        == "| data=4 | 0.28 GiB | 0.47 GiB | 8.58 MiB | 2e+09 | 1.111 (arithmetic) | 0.000 | 2.00 | 8.00 | 0.90 | n/a | memory |"
    )


def test_units():
    assert (gib(2**30), gib(2**20), gib(0)) == ("1.00 GiB", "1.00 MiB", "0.00 GiB")


def test_picture(tmp_path):
    draw([estimate(name, STEP, CHIP, **COSTS) for name in ("data=4", "expert=4")], tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 5000
