"""What is compressed and measured: a trained model behind the few questions that a comparison of methods asks of it."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from moejax.compress.collect import Collected


@runtime_checkable
class Subject(Protocol):
    """A trained model. Its params have one tree per layer (`core.segments.split_segments`), with leaves of `linear` as nodes.

    name: in titles and file names. params: the uncompressed ones. only: regex over the names of the weights that are
    compressed. headline: the entry of `quality` that tables and pictures show, such as an accuracy or a loss. num_examples: of
    `inputs`. inputs: what `apply` computes on when latency and memory are measured.
    """

    @property
    def name(self) -> str: ...

    @property
    def params(self) -> Any: ...

    @property
    def only(self) -> str: ...

    @property
    def headline(self) -> str: ...

    @property
    def num_examples(self) -> int: ...

    @property
    def inputs(self) -> Any: ...

    def collect(self, kinds: Sequence[str], *, seed: int, params: Any = None, only: str | None = None) -> Collected:
        """Statistics of those kinds (`compress.statistics.KINDS`) over calibration data drawn by `seed`.

        params, only: where they are to be of other parameters, such as half compressed ones, or of other weights.
        """
        ...

    def quality(self, params: Any) -> dict[str, float]:
        """Scores on held-out data, always the same; params: of any structure that `apply` takes."""
        ...

    def apply(self, params: Any, inputs: Any) -> Any:
        """The forward pass, pure and without jit: what is compiled, timed and asked for its memory."""
        ...

    def flops(self, params: Any) -> int:
        """Of the forward pass of one example."""
        ...
