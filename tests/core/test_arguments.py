import json

import pytest

from moejax.core.arguments import model_of_run, parse
from moejax.core.errors import SpecError


def test_values_take_the_type_of_their_default():
    args = parse(
        " size=B/16, experts=32,rate=1, smoke,seed=7", size="S/32", experts=8, rate=0.5, smoke=False, seed=None
    )
    assert (args.size, args.experts, args.rate, args.smoke, args.seed) == ("B/16", 32, 1.0, True, 7)
    assert isinstance(args.rate, float)


def test_defaults_hold_and_none_and_false_can_be_said():
    assert parse("", a=1).a == 1
    assert parse(None, a=1).a == 1
    args = parse("on=false,head=none", on=True, head=None)
    assert args.on is False and args.head is None
    assert parse("head=name", head=None).head == "name"


@pytest.mark.parametrize(
    ("arg", "text"),
    [
        ("exprts=3", "Did you mean 'experts'"),
        ("experts=many", "must be int"),
        ("experts", "no flag"),
        ("experts=1,experts=2", "given twice"),
        ("smoke=perhaps", "must be one of"),
    ],
)
def test_bad_arguments_teach_the_fix(arg, text):
    with pytest.raises(SpecError, match=text):
        parse(arg, experts=8, smoke=False)


def test_the_model_of_a_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "vit", "dim": 8}, "seed": 1}))
    assert model_of_run(str(tmp_path)) == {"name": "vit", "dim": 8}
    with pytest.raises(SpecError, match="source='nowhere'.*give the --workdir of a finished run"):
        model_of_run("nowhere")
