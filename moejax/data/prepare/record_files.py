"""Writes a data set from memory as array_record files, and opens such files, all through TFDS without TensorFlow."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from moejax.data.dataset import ArraySplit, Opened
from moejax.data.prepare.cache import cache_folder
from moejax.data.resize import to_pil
from moejax.data.tfds_images import TfdsRecords


class ImageRecords(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A TFDS builder over splits in memory; pictures are stored as PNG."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, opened: Opened, **kwargs: Any):
        self._opened = opened
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = next(iter(self._opened.splits.values())).images.shape[1:]  # type: ignore[union-attr]
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(self._opened.class_names)),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # the order in memory is kept
        )

    def _split_generators(self, dl_manager: Any) -> Mapping[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {name: self._generate_examples(split) for name, split in self._opened.splits.items()}

    def _generate_examples(self, split: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            yield index, {"image": _png(image), "label": int(label)}


def through_records(name: str, opened: Opened, folder: str | None = None) -> Opened:
    """The same data set read from array_record files, which are written first if they are not there.

    The folder's name holds a digest of the data, so that stale files are never read. Attributes are not kept.
    """
    config = tfds.core.BuilderConfig(name=f"{name}_{_digest(opened)}", version=ImageRecords.VERSION)
    data_dir = Path(folder) if folder else cache_folder("records")
    builder = ImageRecords(opened=opened, config=config, data_dir=data_dir)
    if not builder.is_prepared():
        builder.download_and_prepare()
    splits = {split: TfdsRecords(builder.as_data_source(split=split), "image", "label") for split in opened.splits}
    shape = builder.info.features["image"].shape
    return Opened(
        class_names=opened.class_names,
        domain_names=opened.domain_names,
        class_domains=opened.class_domains,
        splits=splits,
        image_shape=tuple(shape),
    )


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "PNG")
    return buffer.getvalue()


def _digest(opened: Opened) -> str:
    digest = hashlib.sha256(repr(opened.class_names).encode())
    for name, split in sorted(opened.splits.items()):
        assert isinstance(split, ArraySplit)
        digest.update(f"{name}{split.images.shape}".encode())
        digest.update(split.images.tobytes())
        digest.update(split.labels.astype("<i4").tobytes())
    return digest.hexdigest()[:12]
