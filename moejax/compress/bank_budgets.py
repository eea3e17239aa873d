"""Whole banks of experts by one method, each with the same fraction of its kernels' parameters.

Source: ours.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.compress import statistic_checks
from moejax.compress.allocation import part_of
from moejax.compress.contract import BankMethod
from moejax.compress.report import Report, WeightReport
from moejax.compress.statistics import Statistics
from moejax.compress.weights import Weight, find, is_leaf
from moejax.core.errors import SpecError
from moejax.linear.dense import Dense
from moejax.linear.expert_axis import take_experts

KERNELS = ("gate", "up", "down")


def compress_banks(
    params: Any, method: BankMethod, name: str, *, budget: float, statistics: Statistics | None, only: str | None
) -> tuple[Any, Report]:
    """The tree with other banks, and the report. A bank is a dict with 'up' and 'down' (and 'gate') of three axes.

    Biases are kept and not counted in the budget. Raises SpecError where there is no bank, a matched weight lies in none,
    statistics do not fit, or the budget is not reachable.
    """
    banks = find_banks(params, only)
    checked = {prefix: _statistics(kernels, prefix, statistics, method, name) for prefix, kernels in banks.items()}
    reports, before, after, allowed = [], 0, 0, 0
    for prefix, kernels in banks.items():
        begin = time.perf_counter()
        size = sum(int(np.prod(weight.shape)) for weight in kernels.values())
        node = _node(params, prefix)
        beside, share = count(node) - size, math.floor(part_of(size, budget))
        if budget >= 1:
            made = node
        else:
            bank = {key: _as_leaf(key, value) for key, value in node.items()} | _router(params, prefix)
            made = method.compress_bank(bank, checked[prefix], num_params=share + beside)
        params = _with_node(params, prefix, made)
        reports.append(_report(prefix, node, made, time.perf_counter() - begin))
        before, after, allowed = (
            before + size,
            after + count(made) - beside,
            allowed + share,
        )
    total = Report(
        name, "uniform", "params", float(budget), float(before), float(allowed), float(after), tuple(reports)
    )
    return params, total


def find_banks(params: Any, only: str | None) -> dict[str, dict[str, Weight]]:
    """Path of the bank -> its kernels by 'up', 'down', 'gate'. Raises SpecError for other weights that `only` finds."""
    banks: dict[str, dict[str, Weight]] = {}
    other = []
    for name, weight in find(params, only or r"(^|/)(up|gate|down)$").items():
        prefix, _, last = name.rpartition("/")
        if last in KERNELS and len(weight.shape) == 3:
            banks.setdefault(prefix, {})[last] = weight
        else:
            other.append(name)
    partial = [prefix for prefix, kernels in banks.items() if not {"up", "down"} <= set(kernels)]
    if (only is not None and other) or partial or not banks:
        wrong = other[:3] + [f"{prefix}/{'+'.join(banks[prefix])}" for prefix in partial[:3]]
        raise SpecError(
            "this method compresses whole banks, dicts with 'up' [E D F] and 'down' [E F D]; "
            + (f"{wrong} are no such thing; narrow `only` to the experts." if wrong else "there is none.")
        )
    return banks


def count(node: Any) -> int:
    """Parameters of a node, by its leaves' own count where they have one."""
    leaves = jax.tree.leaves(node, is_leaf=lambda part: hasattr(part, "num_params"))
    return sum(int(leaf.num_params()) if hasattr(leaf, "num_params") else int(np.size(leaf)) for leaf in leaves)


def _statistics(
    kernels: dict[str, Weight], prefix: str, statistics: Statistics | None, method: BankMethod, name: str
) -> Statistics:
    """Those of this bank by 'up', 'down', 'gate' and 'router'. Which kinds it wants for which of them, the method knows."""
    found = {}
    for key, weight in kernels.items():
        own = (statistics or {}).get(weight.name)
        if own is not None:
            statistic_checks.check_all(weight, own)
            found[key] = own
    if method.needs and not found:
        statistic_checks.check(kernels["up"], statistics, method.needs, who=f"{name!r}")
    layer = prefix.rpartition("/")[0]
    router = (statistics or {}).get(f"{layer}/router" if layer else "router")
    return found if router is None else {**found, "router": router}


def _router(params: Any, prefix: str) -> dict[str, Any]:
    """The kernel [D E] of the router beside the bank, where there is one."""
    layer = _node(params, prefix.rpartition("/")[0]) if prefix else {}
    router = layer.get("router")
    kernel = router.get("kernel") if isinstance(router, Mapping) else router
    return {} if kernel is None else {"router": kernel}


def _as_leaf(name: str, value: Any) -> Any:
    return Dense(jnp.asarray(value)) if name in KERNELS and not is_leaf(value) else value


def _node(params: Any, path: str) -> Any:
    for part in filter(None, path.split("/")):
        params = params[part]
    return params


def _with_node(params: Any, path: str, node: Any) -> Any:
    if not path:
        return node
    first, _, rest = path.partition("/")
    assert isinstance(params, Mapping)
    return {**params, first: _with_node(params[first], rest, node)}


def _report(prefix: str, node: Any, made: Any, seconds: float) -> WeightReport:
    kernels = {key: value for key, value in node.items() if key in KERNELS}
    up = kernels["up"].kernel if is_leaf(kernels["up"]) else kernels["up"]
    flops = sum(2 * int(np.prod(_array(kernel).shape[1:])) for kernel in kernels.values())
    counted = [made[key].flops_per_row() for key in kernels if hasattr(made.get(key), "flops_per_row")]
    return WeightReport(
        name=prefix, shape=tuple(up.shape), ranks=(), params_before=count(node), params_after=count(made), flops_before=flops,
        flops_after=sum(counted) if len(counted) == len(kernels) else 2 * count(made) // up.shape[0],
        own_error=None, plain_error=_plain_error(kernels, made), seconds=seconds,
    )  # fmt: skip


def _plain_error(kernels: dict[str, Any], made: Any) -> float | None:
    """Relative, over all kernels of the bank; None where they have other shapes than before."""
    lost, total = 0.0, 0.0
    for key, kernel in kernels.items():
        before, leaf = np.asarray(_array(kernel)), made.get(key)
        if leaf is None or (is_leaf(leaf) and not hasattr(leaf, "materialise")):
            return None
        if jax.eval_shape(_array, leaf).shape != before.shape:
            return None
        for expert, one in enumerate(before):  # one at a time: a large bank is not held twice
            other = np.array(_array(take_experts(leaf, [expert]))[0], np.float64)
            other -= one
            lost += float(np.vdot(other, other))
            total += float(np.linalg.norm(one.astype(np.float64))) ** 2
    return float(np.sqrt(lost / total)) if total > 0 else 0.0


def _array(node: Any) -> Any:
    return node.materialise() if is_leaf(node) else node
