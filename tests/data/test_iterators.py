"""Batches and positions, from memory and from records: the same laws for both."""

import json

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.data.augment import Augment
from moejax.data.dataset import ArraySplit, Dataset, Opened
from moejax.data.opening import build
from moejax.data.pipeline import MeanStd, Pipeline

NAMES = ("a", "b", "c")


class Rows:
    """Records: every picture's first byte is its number."""

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        return {"image": self.split.images[index], "label": int(self.split.labels[index])}


def numbered(count):
    images = np.zeros((count, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return ArraySplit(images, (np.arange(count) % 3).astype(np.int32))


@pytest.fixture(params=["memory", "records"])
def make(request):
    def make(count=22, **fields):
        augment = Augment.build(fields.pop("augment", None))
        splits = {"train": numbered(count), "validation": numbered(5), "test": numbered(7)}
        if request.param == "records":
            splits = {name: Rows(split) for name, split in splits.items()}
        pipeline = Pipeline(**({"batch_size": 4, "eval_batch_size": 4, "value_range": "0_1"} | fields), augment=augment)
        return Dataset("numbers", Opened(class_names=NAMES, splits=splits, image_shape=(8, 8, 3)), pipeline)

    return make


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def numbers(batch):
    return np.rint(batch["image"][:, 0, 0, 0] * 255).astype(int).tolist()


def test_epochs_are_permutations_that_differ_and_repeat(make):
    def epochs(seed):  # 22 pictures: 5 full batches of 4 an epoch, 2 pictures left out
        batches = take(make().train_iterator(seed=seed), 10)
        return [sum(map(numbers, batches[:5]), []), sum(map(numbers, batches[5:]), [])]

    first, second = epochs(0)
    assert len(set(first)) == len(set(second)) == 20 and set(first) <= set(range(22))
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


def test_batch_contract(make):
    batch = next(make().train_iterator(seed=0))
    assert batch["image"].dtype == np.float32 and batch["image"].shape == (4, 8, 8, 3)
    assert batch["label"].dtype == np.int32 and "target" not in batch
    assert [n % 3 for n in numbers(batch)] == batch["label"].tolist()
    assert np.eye(3)[batch["label"]].tolist() == next(make(one_hot=True).train_iterator(seed=0))["target"].tolist()


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 12])
def test_a_saved_position_gives_the_identical_next_batches(make, steps):
    data = make(augment={"pad_crop": {"pad": 2}, "cutout": {"size": 3}, "mixup": {}})
    iterator = data.train_iterator(seed=3)
    take(iterator, steps)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 6)
    resumed = data.train_iterator(seed=3)
    next(resumed)
    resumed.set_state(state)
    for want, got in zip(expected, take(resumed, 6), strict=True):
        assert want.keys() == got.keys()
        for key in want:
            np.testing.assert_array_equal(want[key], got[key])


def test_augmentation_differs_between_epochs_and_processes(make):
    data = make(4, augment={"pad_crop": {"pad": 4}})  # one batch an epoch, always the same pictures
    first, second = take(data.train_iterator(seed=0), 2)
    assert sorted(first["label"].tolist()) == sorted(second["label"].tolist())
    shifted = [sorted(np.flatnonzero(image.ravel()).tolist() for image in b["image"]) for b in (first, second)]
    assert shifted[0] != shifted[1]


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_processes_together_see_what_one_sees(make, blocks):
    augment = {"pad_crop": {"pad": 1}, "mixup": {}}
    fields = {"batch_size": 8, "augment": augment, "augment_blocks": blocks}
    alone = take(make(**fields).train_iterator(seed=0), 5)
    for count in (2, 4):
        parts = [take(make(**fields).train_iterator(seed=0, num_processes=count, process=p), 5) for p in range(count)]
        for whole, *own in zip(alone, *parts, strict=True):
            assert whole.keys() == {"image", "label", "target"}
            for name in whole:
                np.testing.assert_array_equal(np.concatenate([part[name] for part in own]), whole[name])


def test_blocks_are_augmented_by_themselves(make):
    fields = {"batch_size": 8, "augment": {"mixup": {"probability": 1.0}}}
    one, two = (next(make(**fields, augment_blocks=blocks).train_iterator(seed=0)) for blocks in (1, 2))
    assert one["label"].tolist() == two["label"].tolist()
    assert not np.array_equal(one["image"], two["image"])
    share = make(**fields, augment_blocks=4).pipeline.share(2, 1)
    assert list(share.own_blocks) == [2, 3] and list(
        make(**fields, augment_blocks=2).pipeline.share(8, 5).own_blocks
    ) == [1]
    with pytest.raises(SpecError, match=r"augment_blocks=3 must divide data.batch_size=8"):
        make(**fields, augment_blocks=3)


def test_eval_batches_cover_the_split_once_with_a_mask(make):
    batches = list(make().eval_batches("test"))
    assert [b["mask"].tolist() for b in batches] == [[True] * 4, [True] * 3 + [False]]
    seen = [n for b in batches for n, m in zip(numbers(b), b["mask"], strict=True) if m]
    assert sorted(seen) == list(range(7)) and seen != sorted(seen)  # shuffled, so that groups mix classes
    again = [n for b in make().eval_batches("test") for n, m in zip(numbers(b), b["mask"], strict=True) if m]
    assert seen == again
    assert numbers(batches[1])[3] == seen[0]  # filled up from the start, not with blank pictures
    assert batches[1]["image"].shape == (4, 8, 8, 3) and batches[1]["label"].dtype == np.int32
    parts = [list(make().eval_batches("test", num_processes=2, process=p)) for p in range(2)]
    assert len(parts[0]) == len(parts[1]) == 2  # 4 a step over both: 0 1 | 2 3, then 4 5 | 6
    places = [n for p in parts for b in p for n, m in zip(numbers(b), b["mask"], strict=True) if m]
    assert places == [seen[i] for i in (0, 1, 4, 5, 2, 3, 6)]


def test_positions_of_another_stream_are_refused(make):
    state = make().train_iterator(seed=0).get_state()
    for other in (
        make().train_iterator(seed=1),
        make(batch_size=2).train_iterator(seed=0),
        make(8).train_iterator(seed=0),
    ):
        with pytest.raises(SpecError, match="another stream"):
            other.set_state(state)


def test_max_examples_spreads_over_the_split(make):
    data = make(max_examples=6)
    assert data.info.split_sizes == {"train": 6, "validation": 5, "test": 6}
    images, labels = data.examples("train")
    assert images[:, 0, 0, 0].tolist() == [0, 3, 7, 11, 14, 18]  # i * 22 // 6
    assert labels.tolist() == [n % 3 for n in (0, 3, 7, 11, 14, 18)]


def test_bad_batch_sizes_are_refused(make):
    with pytest.raises(SpecError, match=r"batch_size=32 is larger than the training split of numbers \(22"):
        make(batch_size=32)
    with pytest.raises(SpecError, match="does not divide by num_processes=3"):
        make().train_iterator(seed=0, num_processes=3)
    with pytest.raises(SpecError, match="process=2"):
        make().train_iterator(seed=0, num_processes=2, process=2)
    with pytest.raises(SpecError, match="no split 'tset'.*'test'"):
        make().split("tset")


@pytest.mark.parametrize(
    ("value_range", "expected"),
    [("0_1", [0.0, 0.2, 1.0]), ("-1_1", [-1.0, -0.6, 1.0]), (MeanStd(mean=(0.5,), std=(0.25,)), [-2.0, -1.2, 2.0])],
)
def test_value_ranges(value_range, expected):
    # 51 / 255 = 0.2; 2 * 0.2 - 1 = -0.6; (0.2 - 0.5) / 0.25 = -1.2
    images = np.array([0, 51, 255], np.uint8).reshape(3, 1)
    got = Pipeline(value_range=value_range).normalise(images)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.ravel(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "patchwerk"}, "'patchwork'"),
        ({"batchsize": 4}, "'batch_size'"),
        ({"value_range": "0_255"}, "value_range='0_255' is unknown.*'0_1'"),
        ({"value_range": {"mean": (120.0,), "std": (60.0,)}}, "divide by 255"),
        ({"value_range": {"mean": (0.5, 0.5), "std": (0.5, 0.5)}}, "has 2 values"),
        ({"augment": {"flipp": {}}}, "'flip'"),
        ({"augment": {"flip": {"prob": 0.5}}}, "'probability'"),
        ({"name": "patchwork", "augment": {"flip": {"domains": ("digit",)}}}, "'digits'"),
        ({"augment": {"mixup": {"domains": ("digits",)}}}, "takes no domains"),
        ({"augment": {"pad_crop": {"pad": 32}}}, "not smaller than the picture"),
        ({"batch_size": 2000}, "larger than the training split"),
        ({"channels": 2}, "channels=2"),
        ({"folder": "x"}, "folder is no key of data set digits"),
    ],
)
def test_bad_config_is_one_clear_error(change, message):
    with pytest.raises(SpecError, match=message):
        build({"name": "digits", **change})


def test_colour_as_grey_is_refused_and_grey_stays_grey():
    with pytest.raises(SpecError, match="channels=1"):
        build({"name": "emoji32", "channels": 1})
    assert build({"name": "digits", "channels": 1, "image_size": 16}).info.image_shape == (16, 16, 1)


def test_config_dict_builds(patch_config):
    data = build(patch_config)
    assert next(data.train_iterator(seed=0))["target"].shape == (8, 10)


@pytest.fixture
def patch_config():
    import ml_collections

    augment = {"flip": None, "pad_crop": {"pad": 2}, "mixup": {"alpha": 0.4}}
    return ml_collections.ConfigDict({"name": "digits", "batch_size": 8, "augment": augment})


def test_wrong_arrays_are_refused():
    with pytest.raises(SpecError, match="uint8"):
        ArraySplit(np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int32))
    with pytest.raises(SpecError, match="2 pictures, but 3 labels"):
        ArraySplit(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int32))
    splits = {"train": numbered(4), "test": ArraySplit(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32))}
    with pytest.raises(SpecError, match="different sizes"):
        Dataset("x", Opened(class_names=NAMES, splits=splits), Pipeline(batch_size=2))
