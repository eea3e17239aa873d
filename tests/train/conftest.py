"""A linear model and a data set in memory, with the interfaces of the real ones, so that loops run in milliseconds."""

import dataclasses
import os
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@dataclasses.dataclass(frozen=True)
class LinearTask:
    """logits = image @ kernel + bias + noise (training); squared error. `explode_at`: a label that makes block_01 infinite."""

    noise: float = 0.0
    explode_at: int = -1

    def init(self, key):
        return {"body": {"kernel": jax.random.normal(key, (4, 3))}, "bias": jnp.zeros((3,))}, {"calls": jnp.zeros(())}

    def _logits(self, params, image, key):
        logits = image @ params["body"]["kernel"] + jnp.broadcast_to(params["bias"], (image.shape[0], 3))
        return logits if key is None else logits + self.noise * jax.random.normal(key, logits.shape)

    def loss(self, params, state, batch, key):
        logits = self._logits(params, batch["image"], key)
        broken = jnp.any(batch["label"] == self.explode_at)
        factor = jnp.where(broken, jnp.inf, 1.0)
        loss = factor * jnp.mean(jnp.square(logits - jax.nn.one_hot(batch["label"] % 3, 3)))
        metrics = {
            "loss": loss,
            "accuracy": jnp.mean((jnp.argmax(logits, -1) == batch["label"]).astype(jnp.float32)),
            "block_00/load": jnp.ones((2,)) / 2,
            "block_01/load": factor * jnp.ones((2,)) / 2,
        }
        return loss, ({"calls": state["calls"] + 1}, metrics)

    def evaluate_with_metrics(self, params, state, batch):
        del state
        logits = self._logits(params, batch["image"], None)
        examples = {"correct": (jnp.argmax(logits, -1) == batch["label"]) & batch["mask"], "mask": batch["mask"]}
        return examples, {"block_01/load": jnp.array([0.25, 0.75])}

    def summarise(self, examples, info):
        del info
        return {"accuracy": float(examples["correct"].sum() / examples["mask"].sum())}


class Batches:
    """Batch number n is drawn from (seed, n); `before(n)` is called in front of it."""

    def __init__(self, seed, before):
        self.seed, self.before, self.number = seed, before, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.before(self.number)
        rng = np.random.default_rng((self.seed, self.number))
        self.number += 1
        label = rng.integers(0, 3, 8).astype(np.int32)
        return {"image": rng.normal(size=(8, 4)).astype(np.float32), "label": label}

    def get_state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]


class MemoryData:
    """Batches of 8 for training, two of 4 (the last half padding) for each other split."""

    batch_size = 8

    def __init__(self, before=lambda number: None):
        self.before = before
        self.info = types.SimpleNamespace(name="fake", split_sizes={"train": 64, "validation": 6, "test": 6})

    def train_iterator(self, *, seed, num_processes=1, process=0):
        assert (num_processes, process) == (1, 0)
        return Batches(seed, self.before)

    def eval_batches(self, split):
        rng = np.random.default_rng(len(split))
        for mask in ([True] * 4, [True, True, False, False]):
            label = rng.integers(0, 3, 4).astype(np.int32)
            yield {"image": rng.normal(size=(4, 4)).astype(np.float32), "label": label, "mask": np.array(mask)}


@pytest.fixture
def linear_task():
    """The class, to be called with its fields."""
    return LinearTask


@pytest.fixture
def memory_data():
    """The class, to be called with `before`."""
    return MemoryData


@pytest.fixture
def terminate_at():
    """`before` that sends this process a SIGTERM in front of batch number n."""
    return lambda n: lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == n else None
