"""The embedded data set: its splits are pinned, disjoint, and of the promised sizes."""

import hashlib

import numpy as np
import pytest

from moejax.data import build
from moejax.data.packaged_files import PACKAGED, hash_order


@pytest.fixture(scope="module")
def patchwork():
    return build("patchwork")


def test_classes_and_domains(patchwork):
    info = patchwork.info
    assert info.num_classes == 29 == len(info.class_names) == len(set(info.class_names))
    assert info.domain_names == ("garments", "pictograms", "digits")
    assert info.class_domains == (0,) * 10 + (1,) * 9 + (2,) * 10
    assert info.image_shape == (32, 32, 3)


def test_held_out_sizes_per_domain(patchwork):
    def count(split):
        return np.bincount(patchwork.attributes(split)["domain"]).tolist()

    assert count("test") == [2000, 669, 360]
    assert count("validation") == [1000, 321, 180]
    # 10,000 - 1,000 garments; 4,485 - 669 - 321 pictograms, 16 of them drawings of test or validation under another
    # name; 1,797 - 360 - 180 digits
    assert count("train") == [9000, 3479, 1257]
    assert len(set(patchwork.attributes("test")["caption"]) - {""}) == 250
    assert len(set(patchwork.attributes("validation")["caption"]) - {""}) == 120


PINNED = {
    "train": "7e2c07166b1c8aa6",
    "validation": "28260d2fc1e63ec9",
    "test": "3e4c774dd9ccf7c8",
}


@pytest.mark.parametrize("split", PINNED)
def test_splits_are_pinned(patchwork, split):
    images, labels = patchwork.examples(split)
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i4").tobytes()).hexdigest()[:16]
    assert digest == PINNED[split]


def test_no_caption_and_no_picture_in_two_splits(patchwork):
    captions = [set(patchwork.attributes(s)["caption"]) - {""} for s in PINNED]
    assert not captions[0] & captions[1] and not captions[0] & captions[2] and not captions[1] & captions[2]
    pictures = [{image.tobytes() for image in patchwork.examples(s)[0]} for s in PINNED]
    assert not pictures[0] & pictures[1] and not pictures[0] & pictures[2] and not pictures[1] & pictures[2]


def test_the_parts_are_the_whole(patchwork):
    for name, domain, low, high in (("emoji32", 1, 10, 19), ("digits", 2, 19, 29), ("fashion_mnist_12k", 0, 0, 10)):
        part = build({"name": name, "image_size": None})
        images, labels = part.examples("test")
        whole, whole_labels = patchwork.examples("test")
        chosen = patchwork.attributes("test")["domain"] == domain
        assert part.info.class_names == patchwork.info.class_names[low:high]
        np.testing.assert_array_equal(labels + low, whole_labels[chosen])
        border = (32 - images.shape[1]) // 2
        np.testing.assert_array_equal(images, whole[chosen][:, border : 32 - border, border : 32 - border])


def test_hash_order_depends_on_names_and_salt_only():
    names = ["apple", "boat", "cat", "dog"]
    chosen = [names[i] for i in hash_order(names, salt="s")]
    assert chosen == [names[::-1][i] for i in hash_order(names[::-1], salt="s")]
    assert sorted(hash_order(names, salt="s").tolist()) == [0, 1, 2, 3]
    assert any(hash_order(names, salt=s).tolist() != hash_order(names, salt="s").tolist() for s in "abc")


def test_notices_are_shipped():
    notice = (PACKAGED / "NOTICE.md").read_text()
    for file in PACKAGED.glob("*.npz"):
        assert file.name in notice
    for file in PACKAGED.glob("LICENSE*"):
        assert file.name in notice
