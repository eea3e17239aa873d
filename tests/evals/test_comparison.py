"""Who wins, on paper."""

import pytest

from moejax.evals.comparison import Mean, differences, mean_over_seeds, verdict

LABELS = {"a": "A", "b": "B", "c": "C"}


def test_mean_and_standard_error():
    # 0.7, 0.8, 0.9: mean 0.8, s^2 = 0.02 / 2 = 0.01, s / sqrt(3) = 0.057735.
    found = mean_over_seeds([0.7, 0.8, 0.9])
    assert found.mean == pytest.approx(0.8)
    assert found.standard_error == pytest.approx(0.057735, abs=1e-6)
    assert mean_over_seeds([0.5]).standard_error is None


def test_a_clear_winner():
    means = {"a": Mean(0.80, 0.002, 3), "b": Mean(0.90, 0.002, 3)}
    [found] = differences(means)
    assert (found.better, found.worse) == ("b", "a")
    assert found.value == pytest.approx(0.10)
    assert found.standard_error == pytest.approx(0.002 * 2**0.5)
    assert verdict(means, LABELS).startswith("B wins with 90.0 ± 0.2 %")


def test_nobody_wins_within_the_error():
    means = {"a": Mean(0.80, 0.01, 3), "b": Mean(0.81, 0.01, 3)}
    assert "No model is distinguishable" in verdict(means, LABELS)


def test_few_seeds_ask_for_more_than_two_standard_errors():
    # A difference of 2.5 standard errors: with 4 degrees of freedom the two-sided 5 % limit is 2.776, with 58 it is 2.00.
    error = 0.02 / 2.5 / 2**0.5
    assert not differences({"a": Mean(0.5, error, 3), "b": Mean(0.52, error, 3)})[0].significant
    assert differences({"a": Mean(0.5, error, 30), "b": Mean(0.52, error, 30)})[0].significant


def test_the_best_may_beat_only_some():
    means = {"a": Mean(0.70, 0.002, 5), "b": Mean(0.899, 0.002, 5), "c": Mean(0.90, 0.002, 5)}
    text = verdict(means, LABELS)
    assert "C has the highest" in text
    assert "not distinguishable from B" in text
    assert "ahead of A" in text


def test_one_seed_counts_test_pictures_only():
    # sqrt(0.8 0.2 / 100 + 0.9 0.1 / 100) = 0.05: a difference of two errors, and of twenty with 10,000 pictures.
    means = {"a": Mean(0.8, None, 1), "b": Mean(0.9, None, 1)}
    assert differences(means, num_test=100)[0].standard_error == pytest.approx(0.05)
    assert differences(means, num_test=10_000)[0].significant
    assert not differences(means)[0].significant  # nothing is known about the error
    assert "one seed per model" in verdict(means, LABELS, num_test=10_000)
    assert "nothing to compare" in verdict({"a": Mean(0.8, None, 1)}, LABELS)
