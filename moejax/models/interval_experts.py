"""From one denoiser to a mixture over the sampling time: every MoE layer's experts copied into each interval."""

import dataclasses
from typing import Any

from moejax.core.errors import SpecError
from moejax.core.segments import segments, split_segments, stack
from moejax.layers.interval_experts import copy_to_intervals
from moejax.layers.moe import MoE
from moejax.models.dit import DiffusionTransformer


def experts_by_interval(params: Any, old: DiffusionTransformer, new: DiffusionTransformer) -> Any:
    """Parameters of `new`, whose MoE layers have `time_groups` routers, that compute what `params` of `old` compute.

    Layers that are alike in both are kept. Raises SpecError when the models differ in more than their mixtures, or a
    layer of `new` cannot start as copies of that of `old`.
    Source: Luo et al. 2023 (SS-MoE): all experts start from one trained denoiser and are then tuned each in its interval.
    """
    _check_alike(old, new)
    layers, given = [], split_segments(params["blocks"])
    for i, (before, after) in enumerate(zip(old.blocks, new.blocks, strict=True)):
        tree = given[f"{i:02d}"]
        if before.mixer != after.mixer:
            mixer = tree["moe" if isinstance(before.mixer, MoE) else "feed_forward"]
            kept = {key: value for key, value in tree.items() if key not in ("moe", "feed_forward")}
            tree = kept | {"moe": copy_to_intervals(mixer, before.mixer, after.mixer, old.dim)}
        layers.append(tree)
    blocks = {}
    for segment in segments(new.blocks):
        trees = [layers[i] for i in segment.layers]
        blocks[segment.name] = trees[0] if segment.length == 1 else stack(trees)
    return {**params, "blocks": blocks}


def _check_alike(old: DiffusionTransformer, new: DiffusionTransformer) -> None:
    free = ("moe", "moe_layers", "feed_forward", "mlp_dim", "label_dropout", "remat", "scan", "dtype")
    for field in dataclasses.fields(old):
        ours, theirs = getattr(new, field.name), getattr(old, field.name)
        if field.name not in free and ours != theirs:
            raise SpecError(
                f"{field.name}={ours} of the new model is {theirs} in the old one; only mixtures may differ."
            )
    if new.labels.num_labels != old.labels.num_labels:
        raise SpecError("one of the models has label_dropout=0 and so no null label; give both the same labels.")
