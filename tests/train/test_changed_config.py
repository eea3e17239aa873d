"""Going on with another config: what is a change, what is free, and what only a newer version has."""

import pytest

from moejax.core.errors import SpecError
from moejax.train.changed_config import FREE, check_same, differing

BEFORE = {
    "name": "a", "seed": 1, "model": {"dim": 8, "moe": {"exchange": "ring", "group_size": 4}},
    "data": {"name": "digits", "batch_size": 8},
    "optimizer": {"learning_rate": 0.1, "weight_decay_rules": (("kernel$", 1.0),)},
    "train": {"steps": 10, "mesh": {"data": -1, "expert": 1}, "log_every": 5},
}  # fmt: skip


def with_entry(key, value):
    part, _, rest = key.partition(".")
    if not rest:
        return BEFORE | {part: value}
    inner, _, last = rest.rpartition(".")
    branch = {last: value}
    return BEFORE | {
        part: BEFORE[part] | ({inner: BEFORE[part].get(inner, {}) | branch} if inner else branch),
    }


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("optimizer.learning_rate", 0.2, "optimizer.learning_rate from 0.1 to 0.2"),
        ("seed", 2, "seed from 1 to 2"),
        ("data.batch_size", 16, "data.batch_size from 8 to 16"),
        ("model.dim", 16, "model.dim from 8 to 16"),
        ("model.moe.group_size", 8, "model.moe.group_size from 4 to 8"),
        ("train.ema_decay", 0.9, "train.ema_decay from 0.0 to 0.9"),  # the default has a value, too
        ("train.steps", 20, "train.steps from 10 to 20"),  # a cosine over 20 steps is another one
        ("train.eval_split", None, "train.eval_split from 'validation' to None"),
        ("task", {"name": "x"}, "task.name from '(not there)' to 'x'"),
    ],
)
def test_changes(key, value, line):
    assert differing(BEFORE, with_entry(key, value)) == [line]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "b"),
        ("train.log_every", 1),
        ("train.checkpoint_every", 3),
        ("train.on_nonfinite", "skip"),
        ("train.mesh.expert", 4),
        ("train.processes.heartbeat", 5),
        ("model.moe.exchange", "all_to_all"),
        ("train.steps", 10),
        ("train.fsdp", "params"),  # the default, written out
        ("train.processes", {"start": "auto"}),
        ("optimizer.weight_decay_rules", [["kernel$", 1.0]]),  # as JSON has it
    ],
)
def test_free(key, value):
    assert differing(BEFORE, with_entry(key, value)) == []


def test_more_steps_at_a_constant_rate():
    constant = BEFORE | {"optimizer": {"learning_rate": 0.1, "schedule": "constant"}}
    assert differing(constant, constant | {"train": {"steps": 20}}) == []
    cooled = BEFORE | {"optimizer": {"schedule": "rsqrt", "cooldown_steps": 2}}
    assert differing(cooled, cooled | {"train": {"steps": 20}}) == ["train.steps from 10 to 20"]


def test_the_refusal_is_one_line_with_both_ways_out():
    now = with_entry("optimizer.learning_rate", 0.2) | {"seed": 2}
    with pytest.raises(SpecError) as error:
        check_same(BEFORE, now, workdir="runs/a", allow_change=False)
    assert str(error.value) == (
        "runs/a was trained with another config: you changed optimizer.learning_rate from 0.1 to 0.2; seed from 1 to 2: "
        "pass --allow-change to go on with the new values, or give another --workdir."
    )
    assert len(check_same(BEFORE, now, workdir="runs/a", allow_change=True)) == 2


def test_every_reason_is_given():
    assert all(reason for reason in FREE.values())
