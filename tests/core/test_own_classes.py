"""Methods from outside of the package: by the name of their module, or as they are; and what is said when they do not fit."""

import dataclasses

import pytest

from moejax.core.contracts import Router
from moejax.core.errors import SpecError
from moejax.core.plans import TokenChoice
from moejax.core.spec import build_spec, method
from moejax.layers.moe import MoE
from moejax.routing.top_k import TopKRouter

ROUTER = '''
"""A router that a user wrote. It keeps no gradient and no favourite."""
import dataclasses
from typing import ClassVar

from moejax.core.plans import TokenChoice

@dataclasses.dataclass(frozen=True, kw_only=True)
class MyRouter:
    plan_type: ClassVar[type] = TokenChoice
    num_experts: int
    causal: bool = True

    def init(self, key, dim):
        return {}, {}

    def route(self, params, state, x, *, key=None, token_ids=None):
        raise NotImplementedError

@dataclasses.dataclass
class Loose:
    num_experts: int

@dataclasses.dataclass(frozen=True)
class HalfARouter:
    num_experts: int
    plan_type: ClassVar[type] = TokenChoice
'''


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    router: Router | None = method("routing", default=None)


@pytest.fixture
def written(tmp_path, monkeypatch):
    (tmp_path / "router_of_a_user.py").write_text(ROUTER)
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("router_of_a_user", "router_of_an_user", "router_of_a_user.inner", "needs_more")
    monkeypatch.setenv("MOEJAX_IMPORTS", ",".join(names))


def layer(name, **fields):
    return build_spec(
        MoE, {"router": {"name": name, **fields}, "experts": {"name": "mlp", "expert_dim": 4}}, path="moe"
    )


def test_a_class_is_found_by_its_module(written):
    router = layer("router_of_a_user:MyRouter", num_experts=3).router
    assert (type(router).__name__, router.num_experts, router.plan_type) == ("MyRouter", 3, TokenChoice)
    assert hash(router) == hash(layer("router_of_a_user:MyRouter", num_experts=3).router)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("router_of_an_user:MyRouter", {}, "there is no module 'router_of_an_user'.*PYTHONPATH"),
        (":MyRouter", {}, "there is no module ''"),
        ("router_of_a_user.inner:MyRouter", {}, "there is no module 'router_of_a_user.inner'"),
        ("router_of_a_user:MyRuoter", {}, "'MyRuoter' is no dataclass of router_of_a_user. Did you mean 'MyRouter'"),
        ("router_of_a_user:Loose", {"num_experts": 3}, "Loose must be frozen"),
        ("router_of_a_user:MyRouter", {"num_expert": 3}, "moe.router.num_expert .*Did you mean 'num_experts'"),
        ("router_of_a_user:MyRouter", {"num_experts": "3"}, "moe.router.num_experts='3' must be int"),
        ("router_of_a_user:HalfARouter", {"num_experts": 3}, "is no Router: it lacks causal, init, route"),
    ],
)
def test_what_does_not_fit_is_named(written, name, fields, words):
    with pytest.raises(SpecError, match=words):
        layer(name, **fields)


def test_a_config_alone_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "of_a_stranger.py").write_text("raise SystemExit('code of a stranger has run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match="'of_a_stranger' has not been imported.*MOEJAX_IMPORTS=of_a_stranger"):
        layer("of_a_stranger:MyRouter")


def test_what_a_users_module_cannot_import_is_pythons_own_error(written):
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        layer("needs_more:MyRouter")


def test_an_instance_is_taken_as_it_is():
    router = TopKRouter(num_experts=2)
    assert build_spec(Holder, {"router": router}).router is router
    assert build_spec(Holder, {"router": None}).router is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "config.router=3 is no Router: it lacks num_experts, plan_type"),
        (TopKRouter, "class TopKRouter; give an instance"),
    ],
)
def test_no_router_is_refused_at_once(value, words):
    with pytest.raises(SpecError, match=words):
        build_spec(Holder, {"router": value})
