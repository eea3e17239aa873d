"""A trained model with its task and data as a subject of compression: what subjects of pictures, noise and text share.

Source: ours. Deviations: gradients of single examples are of models in which each example is routed by itself and nobody is
dropped, since a group of one example has no capacity worth the name.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from moejax.compress.collect import Collected, collect
from moejax.core.plans import TokenChoice
from moejax.core.tree import leaf_names
from moejax.evals.summary import summarise
from moejax.layers.moe import MoE


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSubject:
    """A model with one tree per layer, and its data. task: of the run, for its loss.

    examples: of a calibration, drawn as in training, in batches of `batch_size`, which are also the `inputs`.
    split: what quality is measured on. num_rows: sampled per batch and expert. passes: for Kronecker factors.
    headline, reported: entries of `quality`: what tables show, and what a compressed run's last row says.
    """

    name: str
    task: Any
    params: Any
    state: Any
    dataset: Any
    only: str = r"moe/experts/(up|gate|down)$"
    headline: str = "loss"
    reported: tuple[str, ...] = ("loss",)
    examples: int = 512
    batch_size: int = 64
    split: str = "test"
    num_rows: int = 64
    passes: int = 2
    chunk: int = 16

    @property
    def inputs(self) -> Any:
        """What the forward pass is timed on."""
        raise NotImplementedError

    def apply(self, params: Any, inputs: Any) -> Any:
        """The forward pass, pure and without jit."""
        raise NotImplementedError

    def quality(self, params: Any) -> dict[str, float]:
        """Scores on held-out data."""
        raise NotImplementedError

    @property
    def num_examples(self) -> int:
        """Of `inputs`."""
        return self.batch_size

    def forward(self, params: Any, batch: Mapping[str, Any]) -> jax.Array:
        """Arrays that depend on every weight, from a batch of `calibration`."""
        raise NotImplementedError

    def example_loss(self, params: Any, batch: Mapping[str, Any]) -> jax.Array:
        """The task's loss of one example, without the routers' own losses."""
        raise NotImplementedError

    def collect(self, kinds: Sequence[str], *, seed: int, params: Any = None, only: str | None = None) -> Collected:
        """Statistics over training examples drawn by `seed`."""
        return collect(
            self.forward,
            self.params if params is None else params,
            self.calibration(seed),
            kinds,
            only=only or self.only,
            loss=self.example_loss,
            num_rows=self.num_rows,
            chunk=self.chunk,
            passes=self.passes if "kronecker" in kinds else 1,
        )

    def calibration(self, seed: int) -> list[dict[str, Any]]:
        """Batches of training examples."""
        iterator = self.dataset.train_iterator(seed=seed)
        size = self.dataset.pipeline.batch_size
        return [dict(batch) for batch in itertools.islice(iterator, -(-self.examples // size))]

    def flops(self, params: Any) -> int:
        """Of one example, where routing is even."""
        length = getattr(self.dataset.info, "sequence_length", None)
        found = summarise(self.task.model, batch_size=self.batch_size, length=length, params=params, state=self.state)
        return found.total("flops_per_example")


def default_weights(params: Any) -> str:
    """The pattern of what is compressed unless said otherwise: the experts, or without any the feed-forward layers."""
    found = any("/moe/experts/" in f"/{name}" for name in leaf_names(params))
    return r"moe/experts/(up|gate|down)$" if found else r"blocks/\d+/feed_forward/(up|gate|down)$"


def one_by_one(model: Any) -> Any:
    """The model with each example routed by itself, and none dropped."""
    moe = getattr(model, "moe", None)
    if not isinstance(moe, MoE):
        return model
    router: Any = moe.router
    if moe.router.plan_type is not TokenChoice:
        return dataclasses.replace(model, moe=dataclasses.replace(moe, group_size=None))
    if hasattr(router, "capacity_factor"):
        router = dataclasses.replace(router, capacity_factor=None, eval_capacity_factor="train")
    # Buffers and not ragged rows: single examples are computed side by side by vmap.
    return dataclasses.replace(model, moe=dataclasses.replace(moe, router=router, group_size=None, dispatch="gather"))
