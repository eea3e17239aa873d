"""Tokens of any tokenizer in files: by hand, whatever their width, and broken ones."""

import pickle

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.data import build
from moejax.evals.routing_statistics import LayerStatistics
from moejax.evals.task_evaluation import MOST_FREQUENT, _summary_of


def write(folder, dtype=np.uint16, **arrays):
    folder.mkdir(exist_ok=True)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", np.asarray(values, dtype))
    return folder


@pytest.fixture
def folder(tmp_path):
    # Token 3 ends documents and stands for no text.
    train = [0, 1, 2, 3, 2, 2, 1, 3, 0]
    return write(tmp_path / "tokens", token_bytes=[1, 2, 5, 0], train=train, validation=[1, 3, 2], test=[2, 2])


def config(folder, **fields):
    sizes = {"batch_size": 2, "eval_batch_size": 3, "sequence_length": 4}
    return {"name": "token_files", "folder": str(folder), **sizes, **fields}


def test_by_hand(folder):
    data = build(config(folder))
    info = data.info
    assert (info.vocab_size, info.kind, info.split_documents) == (4, "ids", {})
    assert info.split_sizes == {"train": 2, "validation": 1, "test": 1}
    assert info.split_bytes == {"train": 1 + 2 + 5 + 5 + 5 + 2 + 1, "validation": 7, "test": 10}
    (batch,) = data.eval_batches("train")
    order = np.argsort(batch["tokens"][:2, 0])
    np.testing.assert_array_equal(batch["tokens"][:2][order], [[0, 1, 2, 3], [2, 2, 1, 3]])
    np.testing.assert_array_equal(batch["target"][:2][order], [[1, 2, 3, 2], [2, 1, 3, 0]])
    np.testing.assert_array_equal(batch["bytes"][:2][order], [2 + 5 + 0 + 5, 5 + 2 + 0 + 1])
    np.testing.assert_array_equal(batch["mask"], [True, True, False])
    (batch,) = data.eval_batches("validation")
    np.testing.assert_array_equal(batch["tokens"][0], [1, 3, 2, 0])
    np.testing.assert_array_equal(batch["target"][0], [3, 2, -1, -1])
    assert batch["bytes"][0] == 5
    batch = next(data.train_iterator(seed=0))
    assert batch["tokens"].dtype == np.int32 and batch["tokens"].shape == (2, 4)


def test_the_width_of_the_integers_does_not_matter(folder, tmp_path):
    wide = tmp_path / "wide"
    for name in ("token_bytes", "train", "validation", "test"):
        write(wide, np.int64, **{name: np.load(folder / f"{name}.npy")})
    one, other = build(config(folder)), build(config(wide))
    assert one.info == other.info
    state = one.train_iterator(seed=1).get_state()
    other.train_iterator(seed=1).set_state(state)
    write(wide, np.int64, train=[3, 2, 1, 0, 0, 0, 0, 0, 0])
    with pytest.raises(SpecError, match="fingerprint"):
        build(config(wide)).train_iterator(seed=1).set_state(state)


def test_splits_may_be_left_out(folder):
    (folder / "test.npy").unlink()
    with pytest.raises(SpecError, match="no split 'test'"):
        list(build(config(folder)).eval_batches("test"))


class Malicious:
    def __reduce__(self):
        return (open, ("/nowhere/at/all", "w"))


def test_what_is_broken_is_named(folder, tmp_path):
    def refused(match, **arrays):
        path = write(tmp_path / "broken", **({"token_bytes": [1, 1], "train": [0, 1, 0, 1, 0]} | arrays))
        with pytest.raises(SpecError, match=match):
            build(config(path))

    refused(r"train.npy: token 7 at 2 is not from 0 to 1", train=[0, 1, 7])
    refused(r"one axis of integers", train=[[0, 1], [1, 0]])
    refused(r"one axis of integers", train=[])
    np.save(tmp_path / "broken" / "token_bytes.npy", np.array([1, -1]))
    np.save(tmp_path / "broken" / "train.npy", np.array([0, 1, 0]))
    with pytest.raises(SpecError, match="holds -1; no token"):
        build(config(tmp_path / "broken"))
    np.save(folder / "train.npy", np.zeros(9))
    with pytest.raises(SpecError, match="float64"):
        build(config(folder))
    whole = (tmp_path / "broken" / "token_bytes.npy").read_bytes()
    for content in (whole[:20], whole[:-1], b"", pickle.dumps(Malicious())):
        (folder / "train.npy").write_bytes(content)
        with pytest.raises(SpecError, match="train.npy is no whole"):
            build(config(folder))
    (folder / "train.npy").unlink()
    with pytest.raises(SpecError, match="train.npy is not there"):
        build(config(folder))
    with pytest.raises(SpecError, match="'gone' is no folder"):
        build(config("gone"))
    (folder / "train.npy").symlink_to(tmp_path / "broken" / "token_bytes.npy")
    with pytest.raises(SpecError, match=r"data\.folder"):
        build(config(folder))


def test_of_a_large_vocabulary_the_frequent_tokens_are_told(tmp_path):
    size = MOST_FREQUENT + 2
    tokens = np.concatenate([np.arange(size - 1), np.arange(size - 1)[5:]])  # the last never, the first five once
    data = build(config(write(tmp_path / "many", token_bytes=[1] * size, train=tokens)))
    layer = LayerStatistics(np.zeros((size, 2)), np.zeros(size))
    layer.add(np.eye(2)[tokens % 2], tokens, {}, num_tokens=1)
    found = _summary_of(layer, data.info)
    assert found["classes"] == [str(i) for i in range(size) if i not in (4, size - 1)]
    assert np.shape(found["expert_by_class"]) == (2, MOST_FREQUENT) and "domains" not in found
    np.testing.assert_allclose(np.asarray(found["expert_by_class"])[0, :4], [1, 0, 1, 0])
    # An even and an odd half of nearly the same size tell one bit.
    assert found["mutual_information"] == pytest.approx(1.0, abs=0.01)
