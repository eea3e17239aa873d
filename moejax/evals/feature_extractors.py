"""Feature extractors: what turns pictures into the vectors that scores compare. Each has a fingerprint.

Features of two extractors, or of one that is given its pictures in another way, have nothing to say to each other; the
fingerprint covers the weights and the preprocessing, and every comparison checks it.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from moejax.core.errors import SpecError
from moejax.core.tree import flatten
from moejax.evals.frechet import check_features


@dataclasses.dataclass(frozen=True)
class Extracted:
    """Features of pictures, and the class that the extractor sees in each, None where it is no classifier of them."""

    features: Float[np.ndarray, "M D"]
    predicted: Int[np.ndarray, " M"] | None = None

    def __len__(self) -> int:
        return len(self.features)

    def take(self, index: Int[np.ndarray, " M2"]) -> "Extracted":
        """The rows at `index`."""
        return Extracted(self.features[index], None if self.predicted is None else self.predicted[index])


@runtime_checkable
class Extractor(Protocol):
    """name: for tables. fingerprint: hexadecimal digest of weights and preprocessing. num_classes: None where it does
    not classify. unit_features: kernel distances are taken of features at their published scale, not of rescaled ones.
    batch_size: pictures per call.
    """

    name: str
    fingerprint: str
    num_classes: int | None
    unit_features: bool
    batch_size: int

    def __call__(self, images: UInt8[np.ndarray, "B height width channels"]) -> Extracted:
        """Features of one batch. Raises SpecError for pictures that the network cannot take."""
        ...


def extract(extractor: Extractor, images: UInt8[np.ndarray, "M height width channels"]) -> Extracted:
    """Features of all pictures, batch by batch; the last batch is filled up with pictures of the same set.

    Raises SpecError without pictures, and for NaN or infinite features.
    """
    if not len(images):
        raise SpecError("there are no pictures to extract features from.")
    size, parts = extractor.batch_size, []
    for start in range(0, len(images), size):
        index = np.arange(start, start + size) % len(images)
        real = min(size, len(images) - start)
        parts.append(extractor(images[index]).take(np.arange(real)))
    features = np.concatenate([part.features for part in parts])
    check_features(features)
    seen = [part.predicted for part in parts if part.predicted is not None]
    return Extracted(features, np.concatenate(seen) if seen else None)


class ClassifierFeatures:
    """What a trained classifier's head reads, and the class that it predicts; scores of this sort need no download.

    model, params, state: as `model.apply(params, state, images, key=None)` takes them, returning a `ModelOutput`.
    normalise: uint8 pictures -> what the model was trained on (a data set's `normalise`); described: its setting in words
    or as a spec, which enters the fingerprint. image_shape: (height, width, channels) of its pictures.
    batch_size: also part of the fingerprint, because experts with a capacity see a batch as a whole.
    Source: ours; features of a classifier of the data's own classes in the place of Inception's (Heusel et al. 2017).
    """

    def __init__(
        self,
        model: Any,
        params: Any,
        state: Any,
        *,
        normalise: Callable[[np.ndarray], np.ndarray],
        described: object,
        image_shape: tuple[int, int, int],
        num_classes: int,
        name: str = "classifier",
        batch_size: int = 256,
    ):
        self.name, self.num_classes, self.batch_size, self.unit_features = name, num_classes, batch_size, False
        self.image_shape, self._normalise, self._weights = tuple(image_shape), normalise, (params, state)
        self.fingerprint = fingerprint((params, state), repr(model), repr(described), repr((image_shape, batch_size)))

        def step(params: Any, state: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            output = model.apply(params, state, images, key=None)
            return output.features.astype(jnp.float32), jnp.argmax(output.logits, axis=-1).astype(jnp.int32)

        self._step = jax.jit(step)

    def __call__(self, images: UInt8[np.ndarray, "B height width channels"]) -> Extracted:
        """Raises SpecError for pictures of another size than the classifier's."""
        if images.shape[1:] != self.image_shape:
            raise SpecError(
                f"{self.name} takes pictures of {self.image_shape}, the samples are {images.shape[1:]}. Score them with "
                "a classifier trained at their size (data.image_size), or with --inception, which resizes."
            )
        features, predicted = jax.device_get(self._step(*self._weights, self._normalise(images)))
        return Extracted(np.asarray(features), np.asarray(predicted))


def fingerprint(tree: Any, *texts: str) -> str:
    """SHA-256, in hexadecimal, of the texts and of every leaf's name, dtype, shape and bytes. Source: ours."""
    digest = hashlib.sha256("\n".join(texts).encode())
    for name, leaf in sorted(flatten(tree).items()):
        array = np.asarray(leaf)
        digest.update(f"\n{name} {array.dtype}{list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
