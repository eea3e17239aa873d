"""From a model and a data set to the pictures of a report: expert maps of chosen test pictures, and samples of the data."""

from typing import Any

import jax
import numpy as np

from moejax.core.plans import SlotMix
from moejax.data.dataset import Dataset
from moejax.evals.expert_maps import expert_maps, slot_maps
from moejax.evals.map_figures import MapSheet, to_uint8


def choose(dataset: Dataset, split: str, *, per_domain: int = 4, seed: int = 0) -> np.ndarray:
    """Rows of pictures for maps: `per_domain` of each domain, of different classes while there are enough."""
    _, labels = dataset.examples(split)
    rng = np.random.default_rng(seed)
    rows: list[int] = []
    for domain in range(len(dataset.info.domain_names)):
        classes = [c for c, d in enumerate(dataset.info.class_domains) if d == domain and (labels == c).any()]
        spread = [
            classes[i] for i in np.linspace(0, len(classes) - 1, min(per_domain, len(classes))).round().astype(int)
        ]
        rows += [int(rng.choice(np.flatnonzero(labels == c))) for c in spread]
    return np.array(rows)


def map_sheet(
    name: str,
    model: Any,
    params: Any,
    state: Any,
    dataset: Dataset,
    rows: np.ndarray,
    *,
    split: str = "test",
    slots: int = 4,
) -> MapSheet | None:
    """Maps of the pictures `rows`, routed in one evaluation batch with the pictures that follow them; None without experts.

    Routers whose groups span pictures see the whole batch, as in evaluation. slots: how many of a mixture are kept, of
    different experts, those that differ most between patches. Raises SpecError when a batch does not make whole groups.
    """
    images, labels = dataset.examples(split)
    size = min(dataset.pipeline.eval_batch_size, len(images))
    others = np.setdiff1d(np.arange(len(images)), rows)
    others = np.random.default_rng(0).permutation(others)[: max(size - len(rows), 0)]
    batch = dataset.normalise(images[np.concatenate([rows, others])])
    plans = jax.jit(lambda p, s, x: model.apply(p, s, x, return_plans=True).plans)(params, state, batch)
    if not plans:
        return None
    side = model.image_size // model.patch_size
    shape = {"batch": len(batch), "grid": (side, side), "num_tokens": model.num_tokens}
    layers = {}
    for block, plan in sorted(plans.items()):
        layers[block] = expert_maps(plan, **shape).take(len(rows))
    titles = [dataset.info.class_names[label] for label in labels[rows]]
    sheet = MapSheet(name, to_uint8(images[rows]), titles, layers)
    last = plans[max(plans)]
    if isinstance(last, SlotMix) and last.dispatch.shape[:2] == (len(batch), model.num_tokens):
        return _with_slots(sheet, slot_maps(last, **shape)[: len(rows)], slots)
    return sheet


def samples(dataset: Dataset, *, split: str = "train", per_domain: int = 24, seed: int = 1) -> dict[str, Any]:
    """Domain -> (pictures, class names), classes in turn."""
    images, labels = dataset.examples(split)
    rng = np.random.default_rng(seed)
    groups = {}
    for domain, name in enumerate(dataset.info.domain_names):
        classes = [c for c, d in enumerate(dataset.info.class_domains) if d == domain and (labels == c).any()]
        rows = [int(rng.choice(np.flatnonzero(labels == classes[i % len(classes)]))) for i in range(per_domain)]
        groups[name] = (to_uint8(images[rows]), [dataset.info.class_names[labels[row]] for row in rows])
    return groups


def _with_slots(sheet: MapSheet, weights: np.ndarray, count: int) -> MapSheet:
    _, experts, slots, _, _ = weights.shape
    contrast = weights.std(axis=(0, 3, 4))  # [E C]: a slot that weighs all patches alike shows nothing
    best = contrast.argmax(1)
    chosen = np.sort(np.argsort(-contrast.max(1), kind="stable")[:count])
    kept = np.stack([weights[:, expert, best[expert]] for expert in chosen], axis=1)
    names = [f"expert {e}" + (f"\nslot {best[e]}" if slots > 1 else "") for e in chosen]
    return MapSheet(sheet.model, sheet.images, sheet.titles, sheet.layers, kept, names)
