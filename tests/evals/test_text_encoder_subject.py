"""The text encoder as a subject: quality 1 for itself, statistics of what its weights really read, costs by formula."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.segments import split_segments
from moejax.evals.compression_subject import Subject
from moejax.evals.text_encoder_subject import TextEncoderSubject
from moejax.linear.low_rank import LowRank
from moejax.models.text_encoder import TextEncoder

ENCODER = TextEncoder(vocabulary_size=11, max_length=6, dim=8, depth=2, num_heads=2, mlp_dim=12)


def draw_texts(seed, count=6):
    return np.random.default_rng(seed).integers(0, 11, (count, 5)).astype(np.int32)


@pytest.fixture(scope="module")
def subject():
    params = jax.tree.map(lambda a: a * 10 if a.ndim > 1 else a, ENCODER.init(jax.random.key(0)))
    return TextEncoderSubject(
        name="tiny",
        encoder=ENCODER,
        params=split_segments(params),
        calibration=draw_texts,
        held_out=draw_texts(99, 7),
        batch_size=3,
    )


def test_it_is_a_subject(subject):
    assert isinstance(subject, Subject)
    assert subject.inputs.shape == (3, 5)
    assert subject.num_examples == 3
    assert subject.headline in subject.quality(subject.params)


def test_quality(subject):
    assert subject.quality(subject.params) == pytest.approx({"cosine": 1.0, "spearman": 1.0}, abs=1e-6)
    scale = jax.tree.map(lambda a: a * 0.3 if a.ndim > 1 else a, subject.params)
    assert subject.quality(scale)["cosine"] < 0.999


@pytest.mark.slow
def test_statistics_of_the_first_layer(subject):
    found = subject.collect(("second_moment", "fisher"), seed=4)
    name = "blocks/00/attention/query"
    assert set(found.statistics) == {
        f"blocks/0{i}/{place}"
        for i in range(2)
        for place in (
            *(f"attention/{n}" for n in ("query", "key", "value", "out")),
            *(f"feed_forward/{n}" for n in ("up", "down")),
        )
    }
    tokens = draw_texts(4)
    rows = np.asarray(ENCODER._embed(subject.params["embedding"], jnp.asarray(tokens)), np.float64).reshape(-1, 8)
    own = found.statistics[name]
    assert own.count == len(rows)
    np.testing.assert_allclose(own.second_moment, rows.T @ rows, rtol=1e-4, atol=1e-3)

    noise = np.random.default_rng(4).normal(size=(6, 8)).astype(np.float32)
    wanted = np.zeros((8, 8))
    for text, e in zip(tokens, noise, strict=True):

        def projected(kernel, text=text, e=e):
            block = subject.params["blocks"]["00"]
            query = dataclasses.replace(block["attention"]["query"], kernel=kernel)
            changed = block | {"attention": block["attention"] | {"query": query}}
            params = subject.params | {"blocks": subject.params["blocks"] | {"00": changed}}
            return jnp.dot(ENCODER.text_vectors(params, jnp.asarray(text[None]))[0], jnp.asarray(e))

        wanted += (
            np.asarray(jax.jit(jax.grad(projected))(subject.params["blocks"]["00"]["attention"]["query"].kernel)) ** 2
        )
    np.testing.assert_allclose(own.fisher, wanted, rtol=1e-3, atol=1e-6)


def test_flops(subject):
    # Per token: four projections 8 x 8, up and down 8 x 12; per text: scores and their use, 5 x 5 x 8; the mean, 5 x 8.
    products = 2 * (5 * (4 * 64 + 2 * 96) + 2 * 25 * 8)
    assert subject.flops(subject.params) == 2 * products + 2 * 5 * 8

    block = subject.params["blocks"]["00"]
    low = LowRank(jnp.ones((8, 3)), jnp.ones((3, 12)))
    changed = block | {"feed_forward": block["feed_forward"] | {"up": low}}
    params = subject.params | {"blocks": subject.params["blocks"] | {"00": changed}}
    assert subject.flops(params) == 2 * products + 2 * 5 * 8 - 2 * 5 * 96 + 2 * 5 * 3 * 20
