"""Everything that one checkpoint is asked: accuracy, calibration, few-shot, routing, and what the model costs."""

import datetime
import importlib.metadata
import itertools
import os
import platform
from typing import Any

import jax
import numpy as np

from moejax.core.errors import SpecError
from moejax.data.dataset import Dataset
from moejax.evals.accuracy import accuracy
from moejax.evals.calibration import calibration
from moejax.evals.few_shot import FewShot
from moejax.evals.predictions import Predictions, predict
from moejax.evals.routing_statistics import summarise
from moejax.evals.summary import summarise as summarise_model

PACKAGES = ("moejax", "jax", "flax", "optax", "numpy")


def evaluate(
    model: Any,
    params: Any,
    state: Any,
    dataset: Dataset,
    *,
    split: str = "test",
    link: str = "softmax",
    few_shot: FewShot | None = FewShot(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """What `evaluation.json` holds: 'split', 'accuracy', 'calibration', 'few_shot', 'routing' (by block) and 'summary'.

    few_shot: fitted on pictures of 'train', tuned on 'validation'; left out when None, or when `split` is not 'test'.
    Raises SpecError for an unknown split.
    Source: ours.
    """
    info = dataset.info
    shared: dict[str, Any] = {"num_classes": info.num_classes, "num_tokens": model.num_tokens, "link": link}
    found = predict(model, params, state, dataset.eval_batches(split), **shared)
    names: dict[str, Any] = {"class_names": info.class_names}
    if len(info.domain_names) > 1:
        names |= {"domain_names": info.domain_names, "class_domains": info.class_domains}
    result = {
        "split": split,
        "accuracy": accuracy(found.correct, found.labels, **names),
        "calibration": calibration(found.probabilities, found.labels),
        "routing": {block: summarise(layer, **names) for block, layer in found.layers.items()},
        "summary": costs(model, params, state, dataset),
        "few_shot": None,
    }
    if few_shot is not None and split == "test" and "validation" in info.split_sizes:
        parts = [
            predict(model, params, state, _batches(dataset, s), routing=False, **shared)
            for s in ("train", "validation")
        ]
        result["few_shot"] = _probe(few_shot, parts[0], parts[1], found)
    return result


def _probe(few_shot: FewShot, train: Predictions, valid: Predictions, test: Predictions) -> dict[str, Any] | None:
    try:
        return few_shot.evaluate(*((p.features.astype(np.float64), p.labels) for p in (train, valid, test)))
    except SpecError:  # a class with fewer pictures than shots: the set is too small for this measure
        return None


def _batches(dataset: Dataset, split: str, *, limit: int = 16384) -> Any:
    size = dataset.pipeline.eval_batch_size
    return itertools.islice(dataset.eval_batches(split), -(-limit // size))


def costs(model: Any, params: Any, state: Any, dataset: Any) -> dict[str, int]:
    """Parameters, those activated, and FLOPs per example, for batches of the data set's own size."""
    size, length = dataset.pipeline.batch_size, getattr(dataset.info, "sequence_length", None)
    totals = summarise_model(model, batch_size=size, length=length, params=params, state=state).to_dict()
    keys = ("total_params", "activated_params", "flops_per_example", "step_flops_per_example")
    return {key: totals[key] for key in keys}


def environment() -> dict[str, Any]:
    """Device, versions and date, as they go into reports and results files."""
    device = jax.devices()[0]
    cores = f", {_cores()} cores" if device.platform == "cpu" else ""
    return {
        "device": f"{jax.device_count()} x {device.device_kind}{cores}",
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version()} | {p: version for p in PACKAGES if (version := _version(p))},
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
