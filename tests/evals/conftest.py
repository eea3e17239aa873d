"""Runs, maps and samples made up for the report's tests."""

import json

import numpy as np
import pytest

from moejax.evals.expert_maps import ExpertMaps
from moejax.evals.map_figures import MapSheet

DOMAINS = ("garments", "pictograms", "digits")
CLASSES = tuple(f"garment {i}" for i in range(4)) + tuple(f"picto {i}" for i in range(3)) + tuple("012")
CLASS_DOMAINS = (0,) * 4 + (1,) * 3 + (2,) * 3


def write_run(folder, model, seed, *, final=0.78, steps=200, experts=4, blocks=(1, 3), routed=True):
    """A folder as training leaves it: config.json, metrics.jsonl, evaluation.json, run.json."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng((seed, sum(map(ord, model))))
    rows = []
    for step in range(10, steps + 1, 10):
        t = step / steps
        row = {
            "step": step,
            "time": 0.1 * step,
            "train/loss": float(3.2 * np.exp(-2.5 * t) + 0.6 + 0.05 * rng.normal()),
        }
        if step % 50 == 0:
            row["valid/accuracy"] = float(final * (1 - np.exp(-3.5 * t)) + 0.01 * rng.normal())
        for block in blocks if routed else ():
            load = np.exp(0.8 * t * np.sin(np.arange(experts) + block) + 0.05 * rng.normal(size=experts))
            row |= {
                f"block_{block:02d}/load": (load / load.sum()).tolist(),
                f"block_{block:02d}/entropy": float(np.log(experts) * (1 - 0.6 * t)),
                f"block_{block:02d}/margin": float(0.1 + 0.4 * t),
                f"block_{block:02d}/dead_experts": 0.25 if t > 0.7 and block == 3 else 0.0,
                f"block_{block:02d}/dropped": float(0.2 * (1 - t) + 0.02),
                f"block_{block:02d}/unserved": float(0.15 * (1 - t)),
                f"block_{block:02d}/padding": 0.1,
            }
        rows.append(row)
    scores = {"all": final, "garments": final + 0.05, "pictograms": final - 0.2, "digits": min(final + 0.15, 1.0)}
    rows[-1] |= {"test/accuracy": final} | {f"test/accuracy/{d}": scores[d] for d in DOMAINS}
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    (folder / "config.json").write_text(json.dumps({"name": model, "seed": seed, "data": {"name": "patchwork"}}))
    facts = {"total_params": 300_000 + 200_000 * routed, "activated_params": 300_000, "flops_per_example": 25_000_000}
    table = rng.dirichlet(np.ones(experts) * 0.7, size=len(CLASSES)).T
    layer = {
        "num_experts": experts,
        "metrics": {},
        "realised_load": table.mean(1).tolist(),
        "dead_experts": 0.0,
        "classes": CLASSES,
        "domains": DOMAINS,
        "expert_by_class": table.tolist(),
        "expert_by_domain": (table @ np.eye(3)[list(CLASS_DOMAINS)]).tolist(),
        "mutual_information": 0.42,
    }
    evaluation = {
        "split": "test",
        "accuracy": {
            "all": {"accuracy": final, "count": 3013, "standard_error": 0.007},
            "domains": {d: {"accuracy": scores[d], "count": 1000, "standard_error": 0.01} for d in DOMAINS},
            "classes": {},
        },
        "calibration": {
            "ece": 0.03,
            "nll": 0.7,
            "brier": 0.3,
            "bins": [
                {"low": i / 10, "high": (i + 1) / 10, "count": 20 * i, "confidence": i / 10 + 0.05, "accuracy": i / 10}
                for i in range(1, 10)
            ],
        },
        "summary": facts,
        "environment": {"device": "1 x cpu", "date": "2025-01-01", "versions": {"jax": "0.10"}},
        "few_shot": {"accuracy": 0.55, "standard_error": 0.01, "shots": 10, "draws": 5},
        "routing": {f"block_{b:02d}": layer for b in blocks} if routed else {},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


@pytest.fixture(scope="package")
def runs_folder(tmp_path_factory):
    """Four models, two seeds each. Read it only."""
    tmp_path = tmp_path_factory.mktemp("evals")
    for model, final in (("dense", 0.77), ("vmoe", 0.79), ("expert_choice", 0.785), ("soft", 0.81)):
        for seed in (0, 1):
            write_run(
                tmp_path / "runs" / model / f"seed_{seed}",
                model,
                seed,
                final=final + 0.01 * seed,
                routed=model != "dense",
            )
    return tmp_path / "runs"


@pytest.fixture(scope="package")
def sheets():
    """Expert maps of a routed and of a mixed model, with slots for the second."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)

    def maps(kind, lowest):
        expert = rng.integers(lowest, 4, (3, 4, 4)).astype(np.int32)
        weight = rng.uniform(0.1, 1.0, (3, 4, 4)).astype(np.float32)
        return ExpertMaps(expert, weight, (expert >= 0).astype(np.int32), 4, kind)

    slots = rng.dirichlet(np.ones(16), size=(3, 2)).reshape(3, 2, 4, 4)
    routed = MapSheet(
        "vmoe", images, ("shirt", "cat", "7"), {"block_01": maps("routed", -1), "block_03": maps("routed", -1)}
    )
    mixed = MapSheet(
        "soft",
        images,
        ("shirt", "cat", "7"),
        {"block_01": maps("mixed", 0)},
        slots,
        ("expert 0, slot 0", "expert 1, slot 0"),
    )
    return [routed, mixed]
