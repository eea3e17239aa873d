"""From config to data set."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.spec import build_method, build_spec, methods
from moejax.data.augment import Augment
from moejax.data.dataset import Dataset
from moejax.data.pipeline import Pipeline


def build(config: Mapping[str, Any] | str, *, path: str = "data") -> Dataset:
    """The data set that `config['name']` names: a file of this room, or any image set of TFDS.

    The other keys are fields of that source or of `Pipeline`. Raises SpecError for unknown names, misspelt keys and
    values that do not fit the data.
    """
    fields = {"name": config} if isinstance(config, str) else dict(config)
    own = {field.name for field in dataclasses.fields(Pipeline)}
    pipeline_fields = {key: fields.pop(key) for key in list(fields) if key in own}
    augment = Augment.build(pipeline_fields.pop("augment", None), path=f"{path}.augment")
    pipeline = build_spec(Pipeline, pipeline_fields | {"augment": augment}, path=path)
    source = _source(fields, own, path)
    return Dataset(fields["name"], source.open(), pipeline)


def _source(fields: dict[str, Any], pipeline_keys: set[str], path: str) -> Any:
    known = methods("data")
    if "name" not in fields:
        raise SpecError(f"{path} needs a 'name'.{did_you_mean('', known)}")
    name = fields["name"]
    if name not in known:
        raise SpecError(f"{path}.name={name!r} is no data set of moejax/data.{did_you_mean(name, known)}")
    allowed = {field.name for field in dataclasses.fields(known[name])} | {"name"}
    for key in fields:
        if key not in allowed:
            raise SpecError(f"{path}.{key} is no key of data set {name}.{did_you_mean(key, allowed | pipeline_keys)}")
    return build_method("data", fields, path=path)
