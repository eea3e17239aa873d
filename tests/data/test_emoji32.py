"""Pictograms: columns beside the pictures, and files that are not what they should be."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.data import build


def test_pictograms_carry_caption_and_style():
    attributes = build("emoji32").attributes("test")
    assert set(attributes["style"]) == {"noto", "noto-v1", "fluent-emoji-flat"}
    assert len(attributes["caption"]) == 669


def test_all_drawings_of_a_concept_lie_in_one_split():
    data = build("emoji32")
    captions = [set(data.attributes(split)["caption"]) for split in ("train", "validation", "test")]
    assert [len(names) for names in captions] == [1687 - 120 - 250, 120, 250]
    assert len(set.union(*captions)) == 1687


def test_missing_file_and_pickles_are_refused(tmp_path):
    with pytest.raises(SpecError, match="is missing"):
        build({"name": "emoji32", "folder": str(tmp_path)})
    objects = {k: np.array([{"a": 1}], dtype=object) for k in ("x", "y", "cats", "caption", "style")}
    np.savez(tmp_path / "emoji32_apache_mit.npz", **objects)
    with pytest.raises(SpecError, match="allow_pickle"):
        build({"name": "emoji32", "folder": str(tmp_path)})
