"""Sets of TFDS: read where prepared, and told how to prepare where not. No TensorFlow, no network."""

import sys

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.data import build
from moejax.data.dataset import ArraySplit
from moejax.data.prepare.__main__ import main
from moejax.data.tfds_images import TfdsImages

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture
def mocked():
    with tfds.testing.mock_data(num_examples=8):
        yield


def test_cifar10_by_name(mocked, tmp_path):
    data = build({"name": "cifar10", "folder": str(tmp_path), "batch_size": 4})
    assert data.info.name == "cifar10" and data.info.num_classes == 10 and len(data.info.class_names) == 10
    assert data.info.image_shape == (32, 32, 3)
    assert isinstance(data.split("train"), ArraySplit)  # small pictures of one size: from memory
    assert [type(s.operation).__name__ for s in data.pipeline.augment.steps] == ["PadCrop", "Flip"]
    batch = next(data.train_iterator(seed=0))
    assert batch["image"].shape == (4, 32, 32, 3) and batch["label"].dtype == np.int32


def test_the_preset_yields_to_the_config(mocked, tmp_path):
    config = {
        "name": "cifar10",
        "folder": str(tmp_path),
        "batch_size": 4,
        "augment": {"mixup": {}},
        "storage": "records",
    }
    data = build(config)
    assert not isinstance(data.split("train"), ArraySplit)
    assert [type(s.operation).__name__ for s in data.pipeline.augment.steps] == ["Mixup"]
    iterator = data.train_iterator(seed=0)
    next(iterator)
    state = iterator.get_state()
    want = next(iterator)
    iterator.set_state(state)
    np.testing.assert_array_equal(next(iterator)["target"], want["target"])


def test_imagenet_is_cropped_to_224(mocked, tmp_path):
    data = build({"name": "imagenet2012", "folder": str(tmp_path), "batch_size": 2, "eval_batch_size": 2})
    assert data.info.image_shape == (224, 224, 3) and data.info.num_classes == 1000
    assert next(data.train_iterator(seed=0))["image"].shape == (2, 224, 224, 3)
    assert next(iter(data.eval_batches("test")))["image"].shape == (2, 224, 224, 3)


class Builder:
    def __init__(self, *splits):
        class Info:
            pass

        self.info = Info()
        self.info.splits = dict.fromkeys(splits)


@pytest.mark.parametrize(
    ("spec", "has", "expected"),
    [
        (TfdsImages(dataset="cifar10"), ("train", "test"), ("train[:98%]", "train[98%:]", "test")),
        (TfdsImages(dataset="x"), ("train", "validation", "test"), ("train", "validation", "test")),
        (TfdsImages(dataset="x"), ("train", "validation"), ("train[:98%]", "train[98%:]", "validation")),
        (
            TfdsImages(dataset="imagenet2012"),
            ("train", "validation", "test"),
            ("train[:98%]", "train[98%:]", "validation"),
        ),
        (
            TfdsImages(dataset="x", train="train[:90%]", validation="train[90%:]", test="val"),
            ("train", "val"),
            ("train[:90%]", "train[90%:]", "val"),
        ),
    ],
)
def test_which_split_is_which(spec, has, expected):
    assert tuple(spec._splits(Builder(*has)).values()) == expected


def test_not_prepared_says_what_to_run(tmp_path):
    with pytest.raises(
        SpecError,
        match=rf"pip install 'moejax\[prepare\]' && python -m moejax.data.prepare cifar10 --data-dir {tmp_path}",
    ):
        build({"name": "cifar10", "folder": str(tmp_path)})


def test_misspelt_and_unfit_sets():
    with pytest.raises(SpecError, match="Did you mean 'cifar10'"):
        build("cifar1O")
    with pytest.raises(SpecError, match="no image classification set"):
        build({"name": "tfds_images", "dataset": "penguins"})
    with pytest.raises(SpecError, match="no data set 'cifar11'. Did you mean .*'cifar10'"):
        build({"name": "tfds_images", "dataset": "cifar11"})
    with pytest.raises(SpecError, match="validation_size is no key of data set cifar10"):
        build({"name": "cifar10", "validation_size": 5})


def test_records_equal_memory(tmp_path):
    config = {"name": "digits", "channels": 1, "eval_batch_size": 64, "max_examples": 130}
    memory = build(config)
    for _ in range(2):  # written, then found
        records = build(config | {"storage": "records", "records_folder": str(tmp_path)})
        assert not isinstance(records.split("test"), ArraySplit)
        assert records.info == memory.info
        for want, got in zip(memory.eval_batches("test"), records.eval_batches("test"), strict=True):
            for key in want:
                np.testing.assert_array_equal(want[key], got[key])
    batch = next(records.train_iterator(seed=0))
    assert batch["image"].shape == (128, 32, 32, 1)
    assert len(list((tmp_path / "image_records").iterdir())) == 1


def test_prepare_command(capsys, monkeypatch):
    assert main(["digits"]) == 0
    assert "digits is ready: {'train': 1257" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main(["cifar10"]) == 1
    assert "pip install 'moejax[prepare]'" in capsys.readouterr().err
