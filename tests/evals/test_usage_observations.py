"""Verdicts on usage whose answer is known because it was planted, and the measures by hand."""

import json

import numpy as np
import pytest

from moejax.evals.expert_usage import Usage
from moejax.evals.routing_statistics import mutual_information
from moejax.evals.usage_information import concentration, information, mutual_bits, tail
from moejax.evals.usage_observations import dispersion, early_concentration, observations, preference

PICTURES, TIMES, PLACES, EXPERTS, CLASSES = 60, 6, 9, 4, 5


def planted(*, place=0.0, time=0.0, by_class=0.0, layers=3, depth=None, skew=None, seed=0):
    """Tokens choose one of four experts by chance, with odds that lean as told.

    place, time, by_class: strength with which place, time or class leans to an expert of its own. depth: factor on the
    strength of places per layer. skew: strength per time (layers alike) with which expert 0 is preferred.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(PICTURES, dtype=np.int32) % CLASSES
    own = np.eye(EXPERTS)
    shape = (layers, PICTURES, TIMES, PLACES, EXPERTS)
    odds = np.zeros(shape)
    factor = np.ones(layers) if depth is None else np.asarray(depth)
    odds += place * factor[:, None, None, None, None] * own[np.arange(PLACES) % EXPERTS]
    odds += time * own[np.arange(TIMES) % EXPERTS][None, None, :, None]
    odds += by_class * own[label % EXPERTS][None, :, None, None]
    if skew is not None:
        odds[..., 0] += np.asarray(skew)[None, None, :, None]
    chance = np.exp(odds) / np.exp(odds).sum(-1, keepdims=True)
    choice = (chance.cumsum(-1) < rng.random((*shape[:-1], 1))).sum(-1)
    mass = own[np.minimum(choice, EXPERTS - 1)].astype(np.float32)
    times = np.linspace(0.1, 1.0, TIMES).astype(np.float32)
    blocks = tuple(f"block_{i:02d}" for i in range(layers))
    return Usage(blocks, times, label, CLASSES, (3, 3), mass.sum(3), mass.sum(2))


def test_bits_by_hand():
    assert mutual_bits(np.array([[2.0, 0.0], [0.0, 2.0]])) == 1.0
    assert mutual_bits(np.ones((3, 4))) == 0.0 and mutual_bits(np.zeros((2, 2))) == 0.0
    tables = np.random.default_rng(0).random((5, 3, 4))
    np.testing.assert_allclose(mutual_bits(tables), [mutual_information(table) for table in tables], rtol=1e-10)


def test_concentration_by_hand():
    np.testing.assert_allclose(concentration(np.array([[1.0, 1.0], [3.0, 0.0]])), [0.0, 1.0], atol=1e-12)
    # (3/4, 1/4): 2 - 3/4 log2 3 = 0.8113 bits of one.
    np.testing.assert_allclose(concentration(np.array([3.0, 1.0])), 1 - 0.811278, atol=1e-6)
    assert concentration(np.array([2.0])) == 0.0


def test_tails_count_the_data_themselves():
    assert tail(3.0, np.array([1.0, 2.0, 4.0])) == 2 / 4
    assert tail(9.0, np.zeros(19)) == 1 / 20


def test_chance_level_of_usage_without_any_preference():
    found = information(planted(), draws=60)
    for one in found.values():
        assert one.bits.mean() > 0  # plug-in estimates are never zero; only the excess is
        assert abs(one.excess.mean()) < 3 * one.shuffled.mean(axis=1).std()
        assert one.p_value > 0.01


def test_the_bits_are_those_of_the_summed_tables():
    usage = planted(place=1.0)
    found = information(usage, draws=5)
    np.testing.assert_allclose(found["position"].bits, mutual_bits(usage.place_mass.sum(1).astype(np.float64)))
    by_class = np.stack([usage.picture_mass[:, usage.label == c].sum(1) for c in range(CLASSES)], axis=1)
    np.testing.assert_allclose(found["class"].bits, mutual_bits(by_class.astype(np.float64)))
    assert found["position"].p_value == 1 / 6 and (found["position"].error > 0).all()


@pytest.mark.parametrize(
    ("strengths", "verdict", "reason"),
    [
        ({"place": 1.5, "time": 1.5}, "found", "over 2 times"),
        ({"place": 1.5, "time": 1.5, "by_class": 0.2}, "found", "over 2 times"),
        ({"place": 1.5, "time": 1.5, "by_class": 2.0}, "not found", "less than 2 times the class's bits"),
        ({"place": 1.5}, "not found", "time: no more than shuffled"),
        ({"by_class": 2.0}, "not found", "position and time: no more"),
        ({}, "not found", "no more than shuffled"),
    ],
)
def test_preference(strengths, verdict, reason):
    found = preference(information(planted(**strengths), draws=40))
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_a_class_as_strong_as_the_factor_is_unclear():
    usage = planted(place=1.5, time=1.5, by_class=0.6)
    found = information(usage, draws=40)
    ratio = min(found[name].excess.mean() for name in ("position", "time")) / found["class"].excess.mean()
    assert preference(found, class_factor=float(ratio)).verdict == "unclear"


@pytest.mark.parametrize(
    ("depth", "verdict"), [((1.0, 0.7, 0.2), "found"), ((0.2, 0.7, 1.0), "not found"), ((1.0, 1.0, 1.0), "unclear")]
)
def test_dispersion(depth, verdict):
    usage = planted(place=1.5, depth=depth)
    found = dispersion(usage, information(usage, draws=40)["position"])
    assert found.verdict == verdict, found
    excess = found.numbers["excess"]
    assert found.numbers["slope"] == pytest.approx(excess[2] - excess[0])  # three layers: the middle one has no say


def test_dispersion_needs_layers_and_places():
    one = planted(place=1.5, layers=1)
    assert dispersion(one, information(one, draws=20)["position"]).reason == "one layer has no depth"
    none = planted()
    found = dispersion(none, information(none, draws=40)["position"])
    assert found.verdict == "unclear" and "nothing to disperse" in found.reason


def test_balance_is_told_beside_dispersion():
    usage = planted(place=1.5)
    tilted = usage.time_mass.copy()
    tilted[0, :, :, 0] += 12  # the first layer overuses one expert
    tilted[1, :, :, 0] += 5
    tilted = Usage(usage.blocks, usage.times, usage.label, CLASSES, (3, 3), tilted, usage.place_mass)
    found = dispersion(tilted, information(usage, draws=20)["position"])
    assert found.numbers["balance_verdict"] == "found" and found.numbers["evenness"][0] < found.numbers["evenness"][2]


@pytest.mark.parametrize(
    ("skew", "verdict"),
    [((0, 0, 0, 0.5, 1, 2), "found"), ((2, 1, 0.5, 0, 0, 0), "not found"), ((1, 1, 1, 1, 1, 1), "unclear")],
)
def test_concentration_at_the_noisy_end(skew, verdict):
    found = early_concentration(planted(skew=skew), draws=40)
    assert found.verdict == verdict, found
    levels = found.numbers["concentration"]
    assert found.numbers["difference"] == pytest.approx(np.mean(levels[3:]) - np.mean(levels[:3]))


def test_one_time_has_no_halves():
    usage = planted()
    single = Usage(
        usage.blocks, usage.times[:1], usage.label, CLASSES, (3, 3), usage.time_mass[:, :, :1], usage.place_mass
    )
    assert early_concentration(single, draws=5).verdict == "unclear"


def test_all_three_are_ready_for_json_and_repeatable():
    usage = planted(place=1.0, time=1.0)
    first, second = (observations(usage, draws=10, seed=3) for _ in range(2))
    text = json.dumps({name: one.to_dict() for name, one in first.items()})
    assert text == json.dumps({name: one.to_dict() for name, one in second.items()})
    assert set(first) == {"preference", "dispersion", "concentration"}
