"""Passages from docstrings: splits by module, long enough, without code, the same every time."""

import platform
import re

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.data import build
from moejax.data.byte_text import decode
from moejax.data.docstrings import digest, passages


@pytest.fixture
def library(tmp_path):
    for i in range(10):
        body = "\n\n".join(
            f'def f{j}():\n    """Module {i} tells of thing {j} here.\n\n    >>> f{j}()  # code\n    It ends well.\n    """'
            for j in range(6)
        )
        (tmp_path / f"module{i}.py").write_text(f'"""The file {i} begins."""\n\n{body}\n')
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "tested.py").write_text('"""Nothing of tests is read at all, however long it may be."""')
    return tmp_path


def numbers(texts):
    return {word for text in texts for before, word in zip(text.split(), text.split()[1:]) if before == "Module"}


def test_modules_belong_to_one_split(library):
    held_out = passages("held_out", 6, words=8, folder=library)
    calibration = passages("calibration", 15, words=8, folder=library)
    assert len(numbers(held_out)) > 1
    assert not numbers(held_out) & numbers(calibration)
    for text in held_out + calibration:
        assert len(text.split()) >= 8
        assert "code" not in text
        assert "tests" not in text
        assert "  " not in text


def test_seeds_draw_and_repeat(library):
    draws = [passages("calibration", 5, words=8, seed=seed, folder=library) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert digest(draws[0]) == digest(draws[1]) != digest(draws[2])
    assert len(set(draws[0])) == 5


def test_too_few(library):
    with pytest.raises(
        SpecError, match=r"held_out: \d+ passages of 8 words are in the docstrings of 3 modules, and 999"
    ):
        passages("held_out", 999, words=8, folder=library)


def test_a_language_data_set_of_whole_modules(library):
    data = build({"name": "docstrings", "folder": str(library), "batch_size": 2, "sequence_length": 32})
    assert data.info.split_documents == {"train": 8, "validation": 1, "test": 1} and data.info.origin == "files"
    texts = {}
    for split in data.info.split_sizes:
        rows = data.split(split)[np.arange(data.info.split_sizes[split])]
        texts[split] = decode(rows[:, 1:].reshape(-1))
    modules = {split: set(re.findall(r"The file (\d+) begins", text)) for split, text in texts.items()}
    assert len(set.union(*modules.values())) == sum(map(len, modules.values())) == 10
    assert "It ends well.\n" in texts["train"] and "code" not in texts["train"]


def test_the_standard_library_is_large_enough_to_learn_from():
    info = build({"name": "docstrings", "batch_size": 2}).info
    assert info.split_bytes["train"] > 500_000 and min(info.split_bytes.values()) > 20_000
    assert info.origin == f"Python {platform.python_version()}" and len(info.fingerprint) == 16


def test_a_folder_without_docstrings(tmp_path):
    (tmp_path / "one.py").write_text("x = 1\n")
    with pytest.raises(SpecError, match="0 modules with docstrings"):
        build({"name": "docstrings", "folder": str(tmp_path)})
