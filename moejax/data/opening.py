"""From config to data set."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.spec import build_method, build_spec, methods
from moejax.data.augment import Augment
from moejax.data.dataset import ArraySplit, Dataset, Opened
from moejax.data.latent_dataset import LatentDataset, OpenedLatents
from moejax.data.pipeline import Pipeline
from moejax.data.resize import centre_crop, set_channels
from moejax.data.text_dataset import TextDataset, TextPipeline

MEMORY_LIMIT = 512 * 2**20  # bytes of pictures that 'auto' takes from records into memory


def build(config: Any, *, path: str = "data") -> Any:
    """The data set (`Dataset`, or `TextDataset`) that `config['name']` names: a file of this room, or any image set of TFDS.

    config: a mapping, a ConfigDict, or the name alone. Its other keys are fields of that source or of its pipeline.
    Raises SpecError for unknown names, misspelt keys, missing data and values that do not fit the data.
    """
    fields = {"name": config} if isinstance(config, str) else dict(_plain(config))
    kind = pipeline_type(fields.get("name"))
    own = {field.name for field in dataclasses.fields(kind)}
    given = {key: fields.pop(key) for key in list(fields) if key in own}
    source = _source(fields, own, path)
    name = str(fields.get("dataset", fields["name"]))
    if issubclass(kind, TextPipeline):
        return TextDataset(name, source.open(), build_spec(kind, given, path=path))
    given = dict(getattr(source, "preset", {})) | given
    augment = Augment.build(given.pop("augment", None), path=f"{path}.augment")
    pipeline = build_spec(Pipeline, given | {"augment": augment}, path=path)
    opened = source.open()
    if isinstance(opened, OpenedLatents):
        return LatentDataset(name, opened, pipeline)
    return Dataset(name, _store(name, opened, pipeline), pipeline)


def pipeline_type(name: Any) -> type:
    """The pipeline spec of the data set `name`: of pictures unless its source says otherwise."""
    return getattr(methods("data").get(name), "pipeline", Pipeline)


def _plain(config: Any) -> Mapping[str, Any]:
    return config.to_dict() if hasattr(config, "to_dict") else config


def _source(fields: dict[str, Any], pipeline_keys: set[str], path: str) -> Any:
    known = methods("data")
    if "name" not in fields:
        raise SpecError(f"{path} needs a 'name'.{did_you_mean('', known)}")
    name = fields["name"]
    if name not in known:
        _check_tfds_name(name, set(known), path)
        fields |= {"name": "tfds_images", "dataset": name}
    allowed = {field.name for field in dataclasses.fields(known[fields["name"]])} | {"name"}
    for key in fields:
        if key not in allowed:
            raise SpecError(f"{path}.{key} is no key of data set {name}.{did_you_mean(key, allowed | pipeline_keys)}")
    return build_method("data", fields, path=path)


def _check_tfds_name(name: str, known: set[str], path: str) -> None:
    import tensorflow_datasets as tfds  # slow to import, and needed for sets of TFDS only

    names = set(tfds.list_builders(with_community_datasets=False))
    if name.split("/")[0].split(":")[0] not in names:
        hint = did_you_mean(name, known | names).split(" Allowed:")[0]
        raise SpecError(
            f"{path}.name={name!r} is no data set.{hint} Allowed: {', '.join(sorted(known))}, or an image set of TFDS "
            "such as 'cifar10'."
        )


def _store(name: str, opened: Opened, pipeline: Pipeline) -> Opened:
    """Takes records into memory, or arrays to record files, as `pipeline.storage` says."""
    in_memory = all(isinstance(split, ArraySplit) for split in opened.splits.values())
    if in_memory and pipeline.storage == "records":
        from moejax.data.prepare.record_files import through_records  # imports tfds

        return through_records(name, opened, pipeline.records_folder)
    if in_memory or pipeline.storage == "records":
        return opened
    fixed = opened.image_shape
    count = sum(min(len(split), pipeline.max_examples or len(split)) for split in opened.splits.values())
    small = fixed is not None and count * int(np.prod(fixed)) <= MEMORY_LIMIT
    if pipeline.storage == "memory" or small:
        return _into_memory(opened, pipeline)
    return opened


def _into_memory(opened: Opened, pipeline: Pipeline) -> Opened:
    size = pipeline.image_size or (opened.image_shape or (0,))[0]
    if not size:
        raise SpecError("data.storage='memory' needs data.image_size where the pictures differ in size.")
    splits = {}
    for name, records in opened.splits.items():
        step = len(records) / min(len(records), pipeline.max_examples or len(records))
        rows = [records[int(i * step)] for i in range(round(len(records) / step))]  # type: ignore[index]
        images = [set_channels(row["image"], pipeline.channels) for row in rows]
        if opened.image_shape is None:
            images = [centre_crop(image, size, fraction=pipeline.crop_fraction) for image in images]
        splits[name] = ArraySplit(np.stack(images), np.array([row["label"] for row in rows], np.int32))
    return dataclasses.replace(opened, splits=splits)
