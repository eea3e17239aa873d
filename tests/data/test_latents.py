"""Cached latents: what is written is read, drawn from its Gaussian, and refused when it cannot be right."""

import json

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.data.latent_cache import CacheWriter
from moejax.data.opening import build

SHAPE = (3, 2, 4)


def moments(count, *, seed=0, spread=1.0):
    draw = np.random.default_rng(seed)
    mean = (spread * draw.normal(0, 0.8, (count, *SHAPE))).astype(np.float32)
    std = (spread * draw.uniform(0.4, 0.8, mean.shape)).astype(np.float32)
    return mean, std, np.arange(count, dtype=np.int32) % 3


def write(folder, *, spread=1.0, scale=0.18215, dtype="float32", train=40):
    writer = CacheWriter(
        folder, shape=SHAPE, class_names=("a", "b", "c"), scale=scale, dtype=dtype, records_per_file=16
    )
    mean, std, label = moments(train, spread=spread)
    for start in range(0, train, 7):  # batches that do not divide the files
        writer.add("train", *(part[start : start + 7] for part in (mean, std, label)))
    writer.add("validation", *moments(5, seed=1, spread=spread))
    writer.close()
    return mean, std, label


def config(folder, **fields):
    return {"name": "latents", "folder": str(folder), "batch_size": 8, "eval_batch_size": 4, **fields}


def test_what_is_written_is_read(tmp_path):
    mean, std, label = write(tmp_path)
    data = build(config(tmp_path))
    assert data.info.image_shape == SHAPE and data.info.num_classes == 3
    assert data.info.split_sizes == {"train": 40, "validation": 5}
    split = data.split("train")
    index = np.array([39, 0, 17, 17])
    np.testing.assert_array_equal(split[index], np.stack([mean, std], 1)[index])
    np.testing.assert_array_equal(split.labels, label)
    assert sorted(path.name for path in tmp_path.glob("train*record")) == [
        f"train-0000{i}.array_record" for i in range(3)
    ]


def test_the_manifest_says_what_there_is(tmp_path):
    mean, std, _ = write(tmp_path)
    manifest = json.loads((tmp_path / "latents.json").read_text())
    assert manifest["scale"] == 0.18215 and manifest["dtype"] == "float32" and manifest["shape"] == list(SHAPE)
    assert [entry["count"] for entry in manifest["splits"]["train"]["records"]] == [16, 16, 8]
    draws = mean + std * np.random.default_rng(5).normal(size=(2000, *mean.shape))
    np.testing.assert_allclose(manifest["statistics"]["mean"], draws.mean((0, 1, 2, 3)), atol=0.01)
    np.testing.assert_allclose(manifest["statistics"]["std"], draws.std((0, 1, 2, 3)), atol=0.01)


def test_half_precision(tmp_path):
    mean, _, _ = write(tmp_path, dtype="float16")
    found = build(config(tmp_path)).split("train")[np.arange(40)]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, 0], mean.astype(np.float16).astype(np.float32))


@pytest.mark.slow
def test_training_draws_every_latent_anew(tmp_path):
    mean, std, label = write(tmp_path)
    batches = build(config(tmp_path)).train_iterator(seed=3)
    epochs = []
    for _ in range(400):
        epochs.append([next(batches) for _ in range(5)])
    images = np.array([np.concatenate([batch["image"] for batch in epoch]) for epoch in epochs])
    labels = np.concatenate([batch["label"] for batch in epochs[0]])
    assert images.dtype == np.float32 and labels.dtype == np.int32
    np.testing.assert_array_equal(np.sort(labels), np.sort(label))
    # Which latent a row is: the nearest mean; all 40 are in every epoch, and their draws have its mean and deviation.
    flat = images.reshape(400, 40, -1)
    nearest = np.argmin(((flat[:, :, None] - mean.reshape(40, -1)) ** 2).sum(-1), -1)
    rows = flat[nearest == 11]
    assert len(rows) > 350
    np.testing.assert_allclose(rows.mean(0), mean[11].ravel(), atol=0.2)
    np.testing.assert_allclose(rows.std(0), std[11].ravel(), atol=0.15)


def test_batches_depend_on_seed_and_position_alone(tmp_path):
    write(tmp_path)
    data = build(config(tmp_path))
    first, second, other = (data.train_iterator(seed=seed) for seed in (1, 1, 2))
    for _ in range(6):
        wanted = next(first)
        np.testing.assert_array_equal(next(second)["image"], wanted["image"])
    assert not np.array_equal(next(other)["image"], wanted["image"])
    second.set_state(json.loads(json.dumps(first.get_state())))
    np.testing.assert_array_equal(next(second)["image"], next(first)["image"])
    halves = [data.train_iterator(seed=1, num_processes=2, process=p) for p in (0, 1)]
    whole = next(data.train_iterator(seed=1))
    parts = [next(half) for half in halves]
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])


def test_evaluation_sees_every_latent_once_and_the_same(tmp_path):
    _, _, label = write(tmp_path)
    data = build(config(tmp_path, max_examples=21))
    first, second = (list(data.eval_batches("train")) for _ in range(2))
    assert sum(int(batch["mask"].sum()) for batch in first) == 21
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
    images, labels = data.examples("validation")
    assert images.shape == (5, *SHAPE) and labels.tolist() == [0, 1, 2, 0, 1]
    assert data.info.split_sizes["train"] == 21


@pytest.mark.parametrize("spread", [1 / 0.18215, 0.18215])
def test_a_wrong_scale_is_one_error(tmp_path, spread):
    write(tmp_path, spread=spread)
    with pytest.raises(SpecError, match=r"standard deviation \[.*far from data.mean=\[0.0\] and data.std=\[1.0\]"):
        build(config(tmp_path))
    build(config(tmp_path, std=(spread,)))


def test_another_scale_than_the_config_says(tmp_path):
    write(tmp_path, scale=0.13025)
    with pytest.raises(SpecError, match=r"were multiplied by 0.13025, and data.scale=0.18215"):
        build(config(tmp_path))
    build(config(tmp_path, scale=0.13025))
    build(config(tmp_path, scale=None))


def test_files_that_changed(tmp_path):
    write(tmp_path)
    path = tmp_path / "train-00001.array_record"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(SpecError, match="train-00001.array_record has .* bytes"):
        build(config(tmp_path))
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SpecError, match="sha256 differs"):
        build(config(tmp_path))
    path.unlink()
    with pytest.raises(SpecError, match="is missing"):
        build(config(tmp_path, verify="never"))


def test_no_cache(tmp_path):
    with pytest.raises(SpecError, match="data.folder must name the latents cache"):
        build({"name": "latents", "batch_size": 8})
    with pytest.raises(
        SpecError, match=r"holds no latents.json: write the cache with `python experiments/cache_latents"
    ):
        build(config(tmp_path / "nothing"))
    (tmp_path / "latents.json").write_text("{")
    with pytest.raises(SpecError, match="is no manifest"):
        build(config(tmp_path))
    (tmp_path / "latents.json").write_text('{"format": 7}')
    with pytest.raises(SpecError, match="has format 7"):
        build(config(tmp_path))


def test_what_latents_cannot_follow(tmp_path):
    write(tmp_path)
    for fields in ({"image_size": 5}, {"value_range": "0_1"}, {"augment": {"flip": {}}}, {"one_hot": True}):
        with pytest.raises(SpecError, match=f"data.{next(iter(fields))} does not apply to latents"):
            build(config(tmp_path, **fields))
    with pytest.raises(SpecError, match="batch_size=64 is larger than the training split"):
        build(config(tmp_path, batch_size=64))


def test_what_cannot_be_written(tmp_path):
    write(tmp_path)
    with pytest.raises(SpecError, match="holds a latents cache already"):
        CacheWriter(tmp_path, shape=SHAPE, class_names=("a",), scale=1.0)
    writer = CacheWriter(tmp_path / "other", shape=SHAPE, class_names=("a",), scale=1.0)
    mean, std, label = moments(2)
    with pytest.raises(SpecError, match=r"latents must be \[n, 3, 2, 4\]"):
        writer.add("train", mean[:, :1], std, label)
    with pytest.raises(SpecError, match="not finite in float16"):
        writer.add("train", mean * 1e6, std, label)
    with pytest.raises(SpecError, match="dtype='int8'"):
        CacheWriter(tmp_path / "third", shape=SHAPE, class_names=("a",), scale=1.0, dtype="int8")
