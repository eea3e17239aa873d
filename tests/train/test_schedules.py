"""Schedules at points computed by hand."""

import pytest

from moejax.core.errors import SpecError
from moejax.train.schedules import Schedule


def at(schedule, steps, *points):
    multiplier = schedule.build(steps)
    return [float(multiplier(point)) for point in points]


def test_cosine_with_warm_up():
    # 4 warm-up steps: 1/4, 2/4, 3/4, 4/4; then half a cosine over 8 steps: at step 8 half, at 12 the end.
    # Step 6: progress 2/8, 0.5 (1 + cos(pi/4)) = 0.853553.
    values = at(Schedule(shape="cosine", warmup_steps=4), 12, 0, 1, 3, 4, 6, 8, 12)
    assert values == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.853553, 0.5, 0.0], abs=1e-6)


def test_end_fraction():
    # 0.1 + 0.9 * (1 - 5/10) = 0.55
    assert at(Schedule(shape="linear", end_fraction=0.1), 10, 0, 5, 10, 11) == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_rsqrt_with_cool_down():
    # Step 2 ends the warm-up: 1. Three steps later sqrt(1 / (1 + 3)) = 1/2. Step 17: 15 since, sqrt(1/16) = 1/4, and
    # 3 of 4 cool-down steps left: 3/16. Step 20: nothing left.
    schedule = Schedule(shape="rsqrt", warmup_steps=2, timescale=1, cooldown_steps=4)
    assert at(schedule, 20, 0, 2, 5, 17, 20) == pytest.approx([0.5, 1.0, 0.5, 3 / 16, 0.0])


def test_constant():
    assert at(Schedule(shape="constant", warmup_steps=2, cooldown_steps=2), 6, 0, 3, 5) == pytest.approx(
        [0.5, 1.0, 0.5]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": "cosin"}, "Did you mean 'cosine'"),
        ({"shape": "cosine", "cooldown_steps": 2}, "falls by itself"),
        ({"warmup_steps": -1}, "not be negative"),
        ({"timescale": 0}, "at least 1"),
        ({"end_fraction": 2.0}, r"in \[0, 1\]"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(SpecError, match=message):
        Schedule(**fields)


def test_ramps_longer_than_the_run():
    with pytest.raises(SpecError, match="warmup_steps=8 and cooldown_steps=5 do not fit train.steps=12"):
        Schedule(shape="constant", warmup_steps=8, cooldown_steps=5).build(12)
