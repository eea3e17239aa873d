"""Text in files: documents stay whole, positions are exact, and what cannot be is refused."""

import json

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.data import build
from moejax.data.byte_text import BEGIN, KINDS, ByteTokenizer, decode, encode, joined, token_kinds, token_names
from moejax.data.text_dataset import Sequences, divided, fingerprint, inputs_and_targets


@pytest.fixture
def root(tmp_path):
    for i in range(10):
        path = tmp_path / "texts" / f"part{i % 2}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{i}" * 30)
    (tmp_path / "texts" / "notes.md").write_text("not read")
    return tmp_path / "texts"


def config(folder, **fields):
    return {
        "name": "text_files",
        "folder": str(folder),
        "batch_size": 4,
        "eval_batch_size": 4,
        "sequence_length": 8,
        **fields,
    }


def test_bytes_and_back():
    # 'é' is C3 A9 in UTF-8: 195, 169.
    np.testing.assert_array_equal(encode("aé"), [BEGIN, 97, 195, 169])
    assert decode([BEGIN, 97, 195, 169, 300, -1]) == "aé"
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aé").ids == [BEGIN, 97, 195, 169] and tokenizer.decode(tokenizer.encode("aé").ids) == "aé"
    assert decode([195]) == "\N{REPLACEMENT CHARACTER}"


def test_tokens_have_names_and_kinds():
    names, kinds = token_names(), [KINDS[kind] for kind in token_kinds()]
    assert len(names) == len(kinds) == BEGIN + 1 == len(set(names))
    found = {names[t]: kinds[t] for t in (*b"aZ7 ~\n", 0, 200, BEGIN)}
    assert found == {
        "a": "lower case", "Z": "upper case", "7": "digit", "0x20": "space", "~": "punctuation", "0x0A": "space",
        "0x00": "other", "0xC8": "other", "BEGIN": "other",
    }  # fmt: skip


def test_sequences_by_hand():
    # Tokens: B a b c B d e. Of length 3: (B a b -> a b c), then (c B d -> B d e).
    rows = Sequences(joined([b"abc", b"de"]), 3, None)
    np.testing.assert_array_equal(rows[np.array([0, 1])], [[BEGIN, 97, 98, 99], [99, BEGIN, 100, 101]])
    # Of length 4: the second predicts two tokens only.
    rows = Sequences(joined([b"abc", b"de"]), 4, None)
    batch = inputs_and_targets(rows[np.array([1])], padding=BEGIN)
    np.testing.assert_array_equal(batch["target"], [[100, 101, -1, -1]])
    np.testing.assert_array_equal(batch["tokens"], [[BEGIN, 100, 101, BEGIN]])


def test_every_token_but_the_first_is_predicted_once(root):
    data = build(config(root))
    assert data.info.split_documents == {"train": 8, "validation": 1, "test": 1}
    targets, size = [], 0
    for batch in data.eval_batches("train"):
        real = batch["target"][batch["mask"]]
        targets += real[real >= 0].tolist()
        size += int(batch["bytes"][batch["mask"]].sum())
    # 8 documents of 30 bytes, each after its beginning: 248 tokens.
    assert len(targets) == 8 * 31 - 1 and size == 8 * 30 == data.info.split_bytes["train"]
    assert targets.count(BEGIN) == 7


def test_files_belong_to_one_split_wherever_the_folder_lies(root, tmp_path):
    def digits(folder):
        data = build(config(folder))
        return {
            split: {int(v) for b in data.eval_batches(split) for v in np.unique(b["target"]) if 0 <= v < BEGIN}
            for split in data.info.split_sizes
        }, data.info.fingerprint

    before = digits(root)
    splits = before[0].values()
    assert len(set.union(*splits)) == sum(map(len, splits)) == 10
    root.rename(tmp_path / "moved")
    assert digits(tmp_path / "moved") == before


def test_split_folders(tmp_path):
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(count):
            (tmp_path / split / f"{i}.txt").write_text(split * 9)
    data = build(config(tmp_path, batch_size=1))
    assert data.info.split_documents == {"train": 3, "validation": 1, "test": 2}


def test_a_position_is_restored_exactly_and_belongs_to_one_text(root):
    data = build(config(root))
    first = data.train_iterator(seed=3)
    for _ in range(11):  # past the first epoch, which has 31 sequences and so 7 batches
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    expected = [next(first) for _ in range(3)]
    again = data.train_iterator(seed=3)
    again.set_state(state)
    for want in expected:
        got = next(again)
        assert all(np.array_equal(want[name], got[name]) for name in ("tokens", "target"))
    for path in root.rglob("*.txt"):
        path.write_text("other" * 6)
    with pytest.raises(SpecError, match="saved data position has fingerprint"):
        build(config(root)).train_iterator(seed=3).set_state(state)
    with pytest.raises(SpecError, match="sequence_length=8, this run 16|num_examples"):
        build(config(root, sequence_length=16)).train_iterator(seed=3).set_state(state)


def test_an_epoch_visits_every_sequence_and_processes_share_a_batch(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("".join(chr(65 + (i + 3 * j) % 57) for j in range(200)))
    data = build(config(tmp_path, batch_size=2, sequence_length=20))
    assert data.info.split_sizes["train"] == 10  # 201 tokens, of which 200 are predicted
    whole = data.train_iterator(seed=0)
    halves = [data.train_iterator(seed=0, num_processes=2, process=p) for p in range(2)]
    seen = set()
    for _ in range(5):
        batch, parts = next(whole), [next(half) for half in halves]
        np.testing.assert_array_equal(batch["tokens"], np.concatenate([part["tokens"] for part in parts]))
        seen |= {row.tobytes() for row in batch["target"]}
    assert len(seen) == 10


def test_max_examples_are_spread_evenly():
    rows = Sequences(joined([bytes(range(40))]), 4, 5)
    assert len(rows) == 5
    np.testing.assert_array_equal(rows[np.arange(5)][:, 1], [0, 8, 16, 24, 32])


def test_fingerprints():
    one = {"train": {"a": b"x", "b": b"y"}}
    assert fingerprint(one) == fingerprint({"train": {"b": b"y", "a": b"x"}})
    assert len({fingerprint(s) for s in (one, {"train": {"a": b"xb", "": b"y"}}, {"test": one["train"]})}) == 3


def test_divisions_have_one_at_least():
    found = divided(list("abcde"), np.array([4, 0, 1, 2, 3]), {"validation": 0.1, "test": 0.4})
    assert found == {"train": ["c", "d"], "validation": ["e"], "test": ["a", "b"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folder": "nowhere"}, "is no folder"),
        ({"sequence_length": 0}, "sequence_length=0 must be at least 1"),
        ({"batch_size": 100}, "31 sequences"),
        ({"image_size": 3}, "data.image_size is no key of data set text_files"),
        ({"sequence_lenght": 3}, "Did you mean 'sequence_length'"),
        ({"test_fraction": 1.0}, "leave files for training"),
    ],
)
def test_what_cannot_be(root, fields, message):
    with pytest.raises(SpecError, match=message):
        build(config(root) | fields)


def test_too_few_files_and_links_that_lead_outside(tmp_path):
    inside = tmp_path / "texts"
    inside.mkdir()
    (inside / "one.txt").write_text("alone")
    with pytest.raises(SpecError, match="holds 1 .txt files; training and validation, test need 3"):
        build(config(inside))
    secret = tmp_path / "secret.txt"
    secret.write_text("not in the folder")
    for i in range(3):
        (inside / f"{i}.txt").symlink_to(secret)
    with pytest.raises(SpecError, match="lies outside"):
        build(config(inside))
    (inside / "one.txt").unlink()


def test_an_empty_split(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("")
    with pytest.raises(SpecError, match="has no text"):
        build(config(tmp_path))
