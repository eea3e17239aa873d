"""The strategies, found by their files: a module of this folder with `PLANS` moves tokens by plans of those types.

Each has `dispatch(plan, x, params, apply)`, where `apply(params, layout)` computes the experts on a layout.
"""

import importlib
import pkgutil
import types
from typing import Any

from jaxtyping import Array, Float

import moejax.dispatch
from moejax.core.errors import SpecError, did_you_mean
from moejax.core.plans import ExpertChoice, Merge, Plan, SlotMix, TokenChoice
from moejax.dispatch.buffers import Apply


def _discover() -> dict[str, types.ModuleType]:
    names = [info.name for info in pkgutil.iter_modules(moejax.dispatch.__path__) if info.name != "strategies"]
    modules = {name: importlib.import_module(f"moejax.dispatch.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "PLANS")}


_MODULES = _discover()
STRATEGIES = tuple(_MODULES)
_AUTO = {ExpertChoice: "gather", SlotMix: "einsum", Merge: "merge"}


def strategies_for(plan_type: type) -> tuple[str, ...]:
    """Names of the strategies that move tokens by plans of this type. Source: ours."""
    return tuple(name for name, module in _MODULES.items() if plan_type in module.PLANS)


def check_strategy(name: str, plan_type: type) -> None:
    """Raises SpecError when `name` is no strategy, or not one for plans of `plan_type`. 'auto' always fits."""
    if name == "auto":
        return
    if name not in _MODULES:
        raise SpecError(f"dispatch={name!r} is no strategy.{did_you_mean(name, ('auto', *STRATEGIES))}")
    fitting = strategies_for(plan_type)
    if name not in fitting:
        raise SpecError(
            f"dispatch={name!r} cannot move tokens by a {plan_type.__name__} plan; "
            f"strategies that can: auto, {', '.join(fitting)}."
        )


def dispatch(name: str, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply) -> Float[Array, "G S F"]:
    """Moves the tokens to the experts by the strategy `name`, computes, and moves them back: at the width F of what the
    experts write, in the dtype of x.

    'auto': buffers by index for plans with a capacity and for expert choice, ragged for dropless token choice, products
    for slot mixtures, mixed parameters for merged experts. Raises SpecError as `check_strategy`.
    """
    if name == "auto":
        name = resolve(plan)
    check_strategy(name, type(plan))
    return _MODULES[name].dispatch(plan, x, params, apply)


def resolve(plan: Plan) -> str:
    """The strategy that 'auto' means for this plan."""
    if isinstance(plan, TokenChoice):
        return "ragged" if plan.capacity is None else "gather"
    return _AUTO[type(plan)]
