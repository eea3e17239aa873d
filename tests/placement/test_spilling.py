"""Who computes what, by hand, and what must hold of any counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.placement.spilling import at_home, limit, spill


@functools.partial(jax.jit, static_argnames=("num_devices", "num_guests", "threshold", "capacity_factor", "min_rows"))
def compiled(counts, **options):
    return spill(counts, **options)


def planned(counts, num_devices, num_guests=8, threshold=1.0, capacity_factor=1.0, min_rows=1):
    found = compiled(
        jnp.asarray(counts, jnp.int32), num_devices=num_devices, num_guests=num_guests, threshold=threshold,
        capacity_factor=capacity_factor, min_rows=min_rows,
    )  # fmt: skip
    return np.asarray(found.rows), np.asarray(found.guests)


def test_at_home():
    assert at_home(jnp.array([4, 0, 1, 2], jnp.int32), 2).tolist() == [[4, 0], [0, 0], [0, 1], [0, 2]]


def test_limit():
    assert [int(limit(jnp.array([10, 2], jnp.int32), 4, factor)) for factor in (1.0, 1.25, 1.1)] == [3, 4, 4]
    assert int(limit(jnp.array([110], jnp.int32), 11, 1.1)) == 11  # 1.1 * 10, which binary numbers miss


def test_by_hand():
    # Two experts on each of three devices: loads 13, 2, 3 (mean 6). Device 0 is 7 above: 4 rows of expert 0 fill device 1;
    # then 3 of it, its largest expert still (5 rows), fill device 2.
    rows, guests = planned([9, 4, 2, 0, 0, 3], 3)
    assert rows.tolist() == [[2, 4, 3], [4, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 0], [0, 0, 3]]
    assert guests[:, 0].tolist() == [-1, 0, 0] and (guests[:, 1:] == -1).all()


def test_capacity_and_chunks_by_hand():
    # With 1.5 times the mean a device may have 9: 4 rows must go, all to the least loaded device.
    rows, guests = planned([9, 4, 2, 0, 0, 3], 3, capacity_factor=1.5)
    assert rows[0].tolist() == [5, 4, 0] and guests[:, 0].tolist() == [-1, 0, -1]
    # Chunks of 5 at least: at capacity 6 the others have room for 4 and 3, so nothing moves.
    rows, guests = planned([9, 4, 2, 0, 0, 3], 3, min_rows=5)
    assert rows.sum(0).tolist() == [13, 2, 3] and (guests == -1).all()
    # At 9 they have room for 7 and 6: 5 rows move, one more than needed.
    assert planned([9, 4, 2, 0, 0, 3], 3, capacity_factor=1.5, min_rows=5)[0].sum(0).tolist() == [8, 7, 3]


def test_few_places_by_hand():
    # Two small experts overload device 0, and the one other device has one place: only one of them can move.
    rows, guests = planned([4, 4, 0, 0], 2, num_guests=1)
    assert rows.sum(0).tolist() == [4, 4] and guests.tolist() == [[-1], [0]]
    rows, guests = planned([3, 3, 2, 0, 0, 0], 2, num_guests=1)
    assert rows.sum(0).tolist() == [5, 3] and guests.tolist() == [[-1], [0]]
    assert planned([3, 3, 2, 0, 0, 0], 2, num_guests=2)[0].sum(0).tolist() == [4, 4]


def test_below_the_threshold_nothing_moves():
    rows, guests = planned([6, 4, 5, 5], 4, threshold=1.2)
    assert rows.tolist() == at_home(jnp.array([6, 4, 5, 5], jnp.int32), 4).tolist() and (guests == -1).all()
    assert planned([6, 4, 5, 5], 4, threshold=1.1)[0].sum(0).tolist() == [5, 5, 5, 5]


def test_nothing_to_do():
    for counts in ([0, 0, 0, 0], [3, 3, 3, 3]):
        rows, guests = planned(counts, 4)
        assert rows.sum(1).tolist() == counts and (guests == -1).all()


def legal_moves(rows, guests, most, min_rows):
    """Moves of at least `min_rows` that a device above the limit could still make."""
    experts, n = rows.shape
    load = rows.sum(0)
    for source in np.flatnonzero(load > most):
        for expert in range(source * experts // n, (source + 1) * experts // n):
            for target in range(n):
                place = (guests[target] == -1).any() or expert in guests[target]
                if target != source and place and min(rows[expert, source], most - load[target]) >= min_rows:
                    yield source, expert, target


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options", [{}, {"min_rows": 7}, {"num_guests": 1}, {"capacity_factor": 1.25, "num_guests": 2}, {"threshold": 1.5}]
)
def test_any_counts(seed, options):
    draw = np.random.default_rng(seed)
    for _ in range(10):
        counts = (draw.pareto(0.7, size=8) * 20).astype(np.int64).clip(0, 5000)
        rows, guests = planned(counts, 4, **{"num_guests": 8} | options)
        np.testing.assert_array_equal(rows.sum(1), counts)  # every row is computed once
        assert (rows >= 0).all()
        home = np.arange(8)[:, None] // 2 == np.arange(4)
        holds = home | (guests[None] == np.arange(8)[:, None, None]).any(-1)
        assert not rows[~holds].any() and not (home & (guests[None] == np.arange(8)[:, None, None]).any(-1)).any()
        least = options.get("min_rows", 1)
        assert (rows[~home & (rows > 0)] >= least).all()
        mean, most = counts.sum() / 4, int(np.ceil(options.get("capacity_factor", 1.0) * counts.sum() / 4))
        before = np.where(home, counts[:, None], 0).sum(0)
        if before.max() <= options.get("threshold", 1.0) * mean:
            assert (guests == -1).all()
            continue
        assert not list(legal_moves(rows, guests, most, least))
        assert rows.sum(0).max() <= max(before.max(), most)
        if "num_guests" not in options and least == 1:  # whenever the chunk size, and the places, allow
            assert rows.sum(0).max() <= most
