"""Where experts should lie: counted by hand, and against all placements there are."""

import itertools

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.placement.affinity import affinity, hops, in_order, order_of, place, place_exactly, transitions

# Three layers, four tokens, one choice each; the last token makes none in the last layer.
CHOICES = np.array([[[0], [0], [1], [2]], [[2], [3], [1], [2]], [[1], [1], [0], [-1]]])


def chains(seed, num_tokens, num_layers=4, num_experts=8, faithful=0.8):
    """Tokens that follow a random path of experts, and leave it now and then."""
    paths = np.random.default_rng(100)
    follow = np.stack([paths.permutation(num_experts) for _ in range(num_layers - 1)])
    draw = np.random.default_rng(seed)
    choices = [draw.integers(0, num_experts, num_tokens)]
    for nexts in follow:
        lost = draw.uniform(size=num_tokens) > faithful
        choices.append(np.where(lost, draw.integers(0, num_experts, num_tokens), nexts[choices[-1]]))
    return np.stack(choices)[:, :, None]


def test_counts_by_hand():
    counts = transitions(CHOICES, 4)
    assert counts[0].tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert counts[1].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]
    np.testing.assert_allclose(affinity(counts)[0, 0], [0, 0, 0.5, 0.5])
    # In order, on two devices: 0 -> 2, 0 -> 3, 2 -> 1 and 3 -> 1 change devices, of seven pairs.
    assert hops(counts, in_order(3, 4, 2)) == pytest.approx(4 / 7)


def test_several_choices_are_all_pairs():
    counts = transitions(np.array([[[0, 1]], [[1, 0]]]), 2)
    assert counts.tolist() == [[[1, 1], [1, 1]]]


def balanced(num_experts, num_devices):
    return sorted(set(itertools.permutations(np.arange(num_experts) // (num_experts // num_devices))))


@pytest.mark.parametrize("seed", range(3))
def test_exact_equals_all_placements(seed):
    draw = np.random.default_rng(seed)
    counts = draw.integers(0, 9, (2, 4, 4))
    every = [hops(counts, np.array(device)) for device in itertools.product(balanced(4, 2), repeat=3)]
    exact = place_exactly(counts, 2)
    assert hops(counts, exact) == pytest.approx(min(every))
    assert all(np.bincount(own).tolist() == [2, 2] for own in exact)
    assert hops(counts, place(counts, 2)) == pytest.approx(min(every))


@pytest.mark.parametrize("num_devices", [2, 3])
def test_larger_cases_come_near(num_devices):
    draw = np.random.default_rng(num_devices)
    for _ in range(3):
        counts = draw.integers(0, 9, (3, 6, 6)) ** 2
        exact, found = hops(counts, place_exactly(counts, num_devices)), hops(counts, place(counts, num_devices))
        assert exact <= found <= 1.03 * exact
        assert found < hops(counts, in_order(4, 6, num_devices))


def test_fewer_hops_on_tokens_not_seen():
    counts, held_out = transitions(chains(0, 2000), 8), transitions(chains(1, 2000), 8)
    device = place(counts, 4)
    assert all(np.bincount(own, minlength=4).tolist() == [2] * 4 for own in device)
    # Four tokens in five follow their path, and of the others one in four finds its device by chance: 0.2 * 3/4.
    assert hops(held_out, device) == pytest.approx(0.15, abs=0.02)
    assert hops(held_out, in_order(4, 8, 4)) > 0.5


def test_order_by_hand():
    assert order_of(np.array([1, 0, 1, 0])) == [1, 3, 0, 2]


def test_what_is_too_large_or_does_not_divide():
    with pytest.raises(SpecError, match="more than 3000; use `place`"):
        place_exactly(np.zeros((1, 16, 16), int), 4)
    with pytest.raises(SpecError, match="3 devices do not divide the 4 experts"):
        place(np.zeros((1, 4, 4), int), 3)
