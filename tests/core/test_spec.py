"""Config -> spec: nested specs, methods by file name, and errors that teach the fix."""

import dataclasses
import json
from typing import Literal

import pytest
from ml_collections import ConfigDict

from moejax.core.errors import SpecError
from moejax.core.spec import as_config, build_method, build_spec, check_type, method, methods


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rank: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    dim: int
    rate: float = 0.0
    kind: Literal["a", "b"] = "a"
    layers: tuple[int, ...] = ()
    inner: Inner | None = None
    router: object = method("routing", default=None)


def test_nested_configs_become_nested_specs() -> None:
    config = ConfigDict(
        {"dim": 4, "rate": 1, "layers": [1, 3], "inner": {"rank": 7}, "router": {"name": "top_k", "num_experts": 4}}
    )
    spec = build_spec(Outer, config)
    assert spec.inner == Inner(rank=7)
    assert spec.layers == (1, 3)
    assert spec.rate == 1.0 and isinstance(spec.rate, float)
    assert spec.router == methods("routing")["top_k"](num_experts=4)
    hash(spec)


def test_a_spec_gives_the_config_that_it_is_built_from() -> None:
    config = {"dim": 4, "layers": [1, 3], "inner": {"rank": 7}, "router": {"name": "top_k", "num_experts": 4}}
    spec = build_spec(Outer, config)
    told = as_config(spec)
    assert told["layers"] == [1, 3] and told["inner"] == {"rank": 7} and told["rate"] == 0.0
    assert told["router"]["name"] == "top_k" and told["router"]["num_selected_experts"] == 1
    assert build_spec(Outer, json.loads(json.dumps(told))) == spec
    assert as_config(build_spec(Outer, {"dim": 1}))["router"] is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"dim": 4, "rte": 0.1}, ["config.rte", "did you mean 'rate'"]),
        ({}, ["lacks 'dim'", "Outer"]),
        ({"dim": "4"}, ["config.dim='4'", "must be int, not str"]),
        ({"dim": True}, ["must be int, not bool"]),
        ({"dim": None}, ["config.dim has no value and needs one, of type int"]),
        ({"dim": 4, "kind": "c"}, ["config.kind='c'", "a, b"]),
        ({"dim": 4, "layers": [1, 2.5]}, ["config.layers[1]=2.5"]),
        ({"dim": 4, "inner": {"rnk": 1}}, ["config.inner.rnk", "did you mean 'rank'"]),
        (
            {"dim": 4, "router": {"name": "topk", "num_experts": 4}},
            ["config.router.name='topk'", "did you mean 'top_k'"],
        ),
        (
            {"dim": 4, "router": {"name": "top_k", "n_experts": 4}},
            ["config.router.n_experts", "did you mean 'num_experts'"],
        ),
    ],
)
def test_bad_configs_name_the_value_and_the_way_out(config: dict, words: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        build_spec(Outer, ConfigDict(config))
    for word in words:
        assert word.lower() in str(error.value).lower()


def test_a_method_needs_a_name() -> None:
    with pytest.raises(SpecError, match="needs a 'name'"):
        build_method("routing", {"num_experts": 4})


def test_optional_types_accept_none_and_their_type_only() -> None:
    assert check_type(int | None, None, path="x") is None
    assert check_type(int | None, 3, path="x") == 3
    with pytest.raises(SpecError, match="x='3' fits none of int"):
        check_type(int | None, "3", path="x")
