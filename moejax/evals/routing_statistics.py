"""Routing statistics of a checkpoint: who served what, by class and by domain, after capacity."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moejax.core.plans import Merge, Plan, SlotMix
from moejax.dispatch.assignment import realised


def expert_mass(plan: Plan, *, num_tokens: int, batch: int) -> Float[Array, "B T E"]:
    """How much of each token every expert processed: 1 or 0 for plans that move tokens, the combine weight for mixtures.

    num_tokens: tokens per group S. batch: sequences B; groups and sequences hold the same tokens in the same order.
    Source: ours; dropped choices count as 0.
    """
    weight = realised(plan, num_tokens=num_tokens)
    if not isinstance(plan, (SlotMix, Merge)):
        weight = (weight != 0).astype(jnp.float32)
    return weight.astype(jnp.float32).reshape(batch, -1, weight.shape[-1])


@dataclasses.dataclass
class LayerStatistics:
    """Sums over the examples of a split. mass_by_class: [N E] tokens per class and expert. metrics: weighted sums."""

    mass_by_class: Float[np.ndarray, "N E"]
    tokens_by_class: Float[np.ndarray, "N"]
    metrics: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    examples: int = 0

    def add(
        self,
        mass: Float[np.ndarray, "B E"],
        labels: Int[np.ndarray, "B"],
        metrics: Mapping[str, Any],
        *,
        num_tokens: int,
    ) -> None:
        """Adds examples: `mass` summed over the tokens of each, and the layer's metrics of their batch."""
        np.add.at(self.mass_by_class, labels, mass)
        np.add.at(self.tokens_by_class, labels, float(num_tokens))
        for name, value in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + len(labels) * np.asarray(value, np.float64)
        self.examples += len(labels)


def summarise(
    layer: LayerStatistics,
    *,
    class_names: Sequence[str],
    domain_names: Sequence[str] = (),
    class_domains: Sequence[int] = (),
    told: Sequence[int] | slice = slice(None),
) -> dict:
    """One layer's statistics, ready for JSON.

    'metrics': the layer's own metrics (load, entropy in nats, margin, dropped ...) averaged over examples;
    'realised_load' [E]: share of the processed tokens; 'dead_experts': share of experts without any token of the split;
    'expert_by_class' [E][N], 'expert_by_domain' [E][domains]: share of a class's (domain's) tokens that the expert processes
    (columns of top-1 routing sum to 1 minus drops, of top-k to at most k); where classes are `told`, by number, 'classes' and
    'expert_by_class' are of them alone, and class_names are their names;
    'mutual_information' in bits between expert and class of a processed token, 'mutual_information_domain' likewise.
    """
    mass, tokens = layer.mass_by_class, layer.tokens_by_class
    total = max(mass.sum(), 1e-12)
    result = {
        "num_experts": mass.shape[1],
        "metrics": {k: (v / max(layer.examples, 1)).tolist() for k, v in layer.metrics.items()},
        "realised_load": (mass.sum(0) / total).tolist(),
        "dead_experts": float(np.mean(mass.sum(0) <= 0)),
        "classes": list(class_names),
        "expert_by_class": share(mass[told], tokens[told]).tolist(),
        "mutual_information": mutual_information(mass),
    }
    if domain_names:
        members = np.eye(len(domain_names))[np.asarray(class_domains)]
        by_domain = members.T @ mass
        result["domains"] = list(domain_names)
        result["expert_by_domain"] = share(by_domain, members.T @ tokens).tolist()
        result["mutual_information_domain"] = mutual_information(by_domain)
    return result


def share(mass: Float[np.ndarray, "N E"], tokens: Float[np.ndarray, "N"]) -> Float[np.ndarray, "E N"]:
    """Mass per token of every class, experts first; 0 for classes without tokens."""
    return (mass / np.maximum(tokens, 1e-12)[:, None]).T


def mutual_information(table: Float[np.ndarray, "N E"]) -> float:
    """I(row; column) in bits of a table of non-negative counts: sum p log2(p / (p_row p_column)). 0 for an empty table.

    Source: Shannon 1948.
    """
    if table.sum() <= 0:
        return 0.0
    joint = table / table.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    positive = joint > 0
    return max(0.0, float(np.sum(joint[positive] * np.log2(joint[positive] / independent[positive]))))
