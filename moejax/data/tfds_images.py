"""Any image set of TensorFlow Datasets that is prepared on disk, read without TensorFlow.

`data.name='cifar10'` is short for `data.name='tfds_images', data.dataset='cifar10'`.
Source: TFDS data sources (array_record files, random access).
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np

from moejax.core.errors import SpecError
from moejax.data.dataset import Opened

SMALL = {"image_size": None, "augment": {"pad_crop": {"pad": 4}, "flip": {}}}
DIGITS = {"image_size": None, "augment": {"pad_crop": {"pad": 2}}}
PHOTOGRAPHS = {"image_size": 224, "augment": {"random_resized_crop": {}, "flip": {}}}
# pipeline keys by data set, where the config says nothing
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "cifar10": SMALL,
    "cifar100": SMALL,
    "svhn_cropped": DIGITS,
    "mnist": DIGITS,
    "imagenet2012": PHOTOGRAPHS,
}
# sets whose test labels are not public: their validation split is the test, and validation is cut from training
TEST_IS_VALIDATION = ("imagenet2012", "imagenet2012_subset", "imagenette", "imagewang", "places365_small")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsImages:
    """dataset: name in TFDS, with '/config' and ':version' where needed. folder: TFDS's data_dir, None: its default.

    train, validation, test: split strings such as 'train[:98%]'. Without them: what the set has, and the last 2 % of
    training as validation where it has none.
    """

    dataset: str
    folder: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None

    @property
    def preset(self) -> Mapping[str, Any]:
        """Pipeline keys that hold where the config says nothing."""
        return PRESETS.get(self._short_name, {})

    def open(self) -> Opened:
        """Raises SpecError with the command to run when the set is not prepared, or is no image classification set."""
        import tensorflow_datasets as tfds  # slow to import

        try:
            builder = tfds.builder(self.dataset, data_dir=self.folder)
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            near = difflib.get_close_matches(self.dataset, tfds.list_builders(with_community_datasets=False), n=3)
            reason = str(error).splitlines()[0]
            raise SpecError(f"TFDS has no data set {self.dataset!r}. Did you mean one of {near}? ({reason})") from error
        image, label = _keys(builder, self.dataset)
        splits = {
            name: TfdsRecords(_source(builder, split, self), image, label)
            for name, split in self._splits(builder).items()
        }
        shape = builder.info.features[image].shape
        return Opened(
            class_names=tuple(builder.info.features[label].names),
            splits=splits,
            image_shape=None if None in shape else tuple(shape),
        )

    @property
    def _short_name(self) -> str:
        return self.dataset.split("/")[0].split(":")[0]

    def _splits(self, builder: Any) -> dict[str, str]:
        has = set(builder.info.splits)  # empty where nothing is prepared: the source then says so
        validation_is_test = self._short_name in TEST_IS_VALIDATION or (bool(has) and "test" not in has)
        whole = "train" if not has or "train" in has else sorted(has)[0]
        validation, train = self.validation, self.train
        if validation is None:
            own = "validation" in has and not validation_is_test
            validation = "validation" if own else f"{whole}[98%:]"
            train = train or (whole if own else f"{whole}[:98%]")
        test = self.test or ("validation" if validation_is_test else "test")
        return {"train": train or whole, "validation": validation, "test": test}


class TfdsRecords:
    """A TFDS data source under the names 'image' and 'label'."""

    def __init__(self, source: Any, image: str, label: str):
        self._source, self._image, self._label = source, image, label

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        record = self._source[index]
        return {"image": np.asarray(record[self._image]), "label": int(record[self._label])}


def _keys(builder: Any, name: str) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if "label" in labels:
        labels = ["label"]
    if len(images) != 1 or len(labels) != 1:
        raise SpecError(f"TFDS set {name!r} is no image classification set: images {images}, class labels {labels}.")
    return images[0], labels[0]


def _source(builder: Any, split: str, spec: TfdsImages) -> Any:
    folder = f" --data-dir {spec.folder}" if spec.folder else ""
    command = f"pip install 'moejax[prepare]' && python -m moejax.data.prepare {spec.dataset}{folder}"
    try:
        return builder.as_data_source(split=split)
    except (AssertionError, NotImplementedError, OSError) as error:
        raise SpecError(
            f"TFDS set {spec.dataset!r} is not prepared as array_record files in {builder.data_dir}. Run: {command}"
        ) from error
    except ValueError as error:
        raise SpecError(f"TFDS set {spec.dataset!r} has no split {split!r}: {error}") from error


EXAMPLES = (TfdsImages(dataset="cifar10"),)
