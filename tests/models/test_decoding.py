"""The law of decoding: token by token from the cache, or all at once, the logits are the same."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.segments import split_segments
from moejax.core.spec import build_method, examples
from moejax.layers.moe import MoE
from moejax.models.decoder import EXAMPLES
from moejax.models.decoding import generate, prefill, step
from moejax.models.next_token import NextToken

DENSE, MIXED = EXAMPLES
LENGTHS = np.array([5, 1, 3])
MODELS = {
    "dense": dataclasses.replace(DENSE, depth=3),
    "window, shared heads, mixture": MIXED,
    "head norms, no shared expert": dataclasses.replace(
        MIXED,
        moe=MoE(router=MIXED.moe.router, experts=MIXED.moe.experts, group_size=5),
        moe_layers="every2",
        depth=4,
        qk_norm="head",
        attention_bias="all",
        sliding_window=None,
        head_dim=6,
    ),
}


@pytest.fixture(params=list(MODELS))
def model(request):
    return MODELS[request.param]


def strong(model):
    params, state = model.init(jax.random.key(0))
    grown = jax.tree.map(lambda a: a * 2 if a.ndim > 1 else a + 0.1, params)
    return grown | {"embedding": {"tokens": params["embedding"]["tokens"] * 20}}, state


def texts(batch=3, length=10, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 11, (batch, length)), jnp.int32)


def step_by_step(model, params, state, tokens, lengths, steps):
    """Logits [B steps N] after the first `lengths` tokens and after each that follows; the first from prompts with rubbish behind."""
    longest = int(lengths.max())
    prompts = jnp.where(jnp.arange(longest)[None] < jnp.asarray(lengths)[:, None], tokens[:, :longest], 7)
    lengths = jnp.asarray(lengths, jnp.int32)
    logits, cache = jax.jit(functools.partial(prefill, model, cache_length=longest + steps))(
        params, state, prompts, lengths
    )
    found, once = [logits], jax.jit(functools.partial(step, model))
    for i in range(steps - 1):
        token = jnp.take_along_axis(tokens, lengths[:, None] + i, axis=1)[:, 0]
        logits, cache = once(params, state, cache, token)
        found.append(logits)
    return np.stack(found, 1)


def rows(logits, lengths, steps):
    return np.stack([np.asarray(logits)[b, n - 1 : n - 1 + steps] for b, n in enumerate(lengths)])


@pytest.mark.parametrize("stored", ["stacked", "alone"])
def test_steps_equal_the_full_forward_pass(model, stored):
    params, state = strong(model)
    tokens = texts()
    whole = jax.jit(model.apply)(params, state, tokens)
    if stored == "alone":
        params, state = split_segments(params), split_segments(state)
    found = step_by_step(model, params, state, tokens, LENGTHS, 5)
    np.testing.assert_allclose(found, rows(whole.logits, LENGTHS, 5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "router"), examples("routing"), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_router_decodes_by_the_law_or_is_refused(name, router):
    moe = MoE(router=router, experts=MIXED.moe.experts)
    if not router.causal:
        with pytest.raises(SpecError, match="depend on later tokens"):
            dataclasses.replace(MIXED, moe=moe)
        return
    model = dataclasses.replace(MIXED, moe=moe, depth=1, moe_layers="all", sliding_window=None)
    params, state = strong(model)
    tokens = texts()
    if getattr(router, "by_position", False) or router.factor(training=False) is not None:
        with pytest.raises(SpecError, match=r"(capacity|place in its group)"):
            step_by_step(model, params, state, tokens, LENGTHS, 2)
        return
    found = step_by_step(model, params, state, tokens, LENGTHS, 3)
    whole = jax.jit(model.apply)(params, state, tokens).logits
    np.testing.assert_allclose(found, rows(whole, LENGTHS, 3), rtol=1e-5, atol=1e-5)


def naive(model, params, state, prompt, steps):
    """The most likely tokens, by whole forward passes over a growing sequence (with rubbish behind it)."""
    tokens, length = np.full((1, 12), 5), len(prompt)
    tokens[0, :length] = prompt
    apply = jax.jit(model.apply)
    for end in range(length, length + steps):
        logits = apply(params, state, jnp.asarray(tokens, jnp.int32)).logits
        tokens[0, end] = np.argmax(logits[0, end - 1])
    return tokens[0, length : length + steps].tolist()


def test_greedy_tokens_are_those_of_growing_sequences():
    params, state = strong(MIXED)
    prompts = texts(length=5)
    lengths = jnp.asarray(LENGTHS, jnp.int32)
    written = jax.jit(functools.partial(generate, MIXED, steps=6))(params, state, prompts, lengths=lengths)
    expected = [naive(MIXED, params, state, np.asarray(prompts)[b, :n].tolist(), 6) for b, n in enumerate(LENGTHS)]
    assert np.asarray(written.tokens).tolist() == expected
    assert np.asarray(written.lengths).tolist() == [6, 6, 6]

    stop = expected[0][2]
    stopped = jax.jit(functools.partial(generate, MIXED, steps=6, stop_tokens=(10, stop)))(
        params, state, prompts, lengths=lengths
    )
    for row, length, whole in zip(np.asarray(stopped.tokens), np.asarray(stopped.lengths), expected, strict=True):
        end = next((i + 1 for i, token in enumerate(whole) if token in (10, stop)), 6)
        assert length == end
        assert row.tolist() == whole[:end] + [whole[end - 1]] * (6 - end)


def test_sampling_follows_the_key_and_the_logits():
    params, state = strong(DENSE)
    prompts = texts(batch=1, length=4)
    rule = NextToken(temperature=0.8, top_k=5)
    write = jax.jit(functools.partial(generate, DENSE, steps=8, next_token=rule))
    first, again, other = (write(params, state, prompts, key=jax.random.key(k)).tokens.tolist() for k in (1, 1, 2))
    assert first == again != other
    cold = generate(
        DENSE, params, state, prompts, steps=8, next_token=NextToken(temperature=1e-4), key=jax.random.key(3)
    )
    assert cold.tokens.tolist() == generate(DENSE, params, state, prompts, steps=8).tokens.tolist()

    # The first token of many rows that are alike has the frequencies of the softmax.
    many = jnp.broadcast_to(prompts, (4000, 4))
    one = jax.jit(functools.partial(generate, DENSE, steps=1, next_token=NextToken(temperature=2.0)))
    found = np.bincount(np.asarray(one(params, state, many, key=jax.random.key(0)).tokens)[:, 0], minlength=11) / 4000
    logits = DENSE.apply(params, state, prompts).logits[0, -1]
    np.testing.assert_allclose(found, jax.nn.softmax(logits / 2.0), atol=4 * np.sqrt(0.25 / 4000))


def test_a_bfloat16_model_decodes():
    model = dataclasses.replace(MIXED, dtype="bfloat16")
    params, state = strong(model)
    logits, cache = prefill(model, params, state, texts(), jnp.asarray(LENGTHS, jnp.int32), cache_length=12)
    logits, cache = step(model, params, state, cache, jnp.array([1, 2, 3], jnp.int32))
    assert logits.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(cache.layers)} == {"bfloat16"}
    assert cache.lengths.tolist() == [6, 2, 4]


def test_a_step_writes_into_the_cache_that_it_is_given():
    model = dataclasses.replace(DENSE, depth=6, max_length=2000)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    lengths = jax.ShapeDtypeStruct((4,), jnp.int32)
    read = functools.partial(prefill, model, cache_length=2000)
    _, cache = jax.eval_shape(read, *shapes, jax.ShapeDtypeStruct((4, 3), jnp.int32), lengths)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
    used = jax.jit(functools.partial(step, model), donate_argnums=2).lower(*shapes, cache, lengths).compile()
    assert used.memory_analysis().temp_size_in_bytes < held / 2  # one layer's, not another copy of all


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": 13}, r"a prompt of 4 tokens and 13 more are 17; .* take 12 steps at most"),
        ({"steps": 2, "stop_tokens": (1, 11)}, r"stop token 11 is no token of the vocabulary \(0 to 10\)"),
        ({"steps": 2, "next_token": NextToken(temperature=1.0)}, "needs a key"),
    ],
)
def test_bad_requests(given, message):
    params, state = DENSE.init(jax.random.key(0))
    with pytest.raises(SpecError, match=message):
        generate(DENSE, params, state, texts(length=4), **given)


def test_a_cache_shorter_than_the_prompt_is_refused():
    params, state = DENSE.init(jax.random.key(0))
    with pytest.raises(SpecError, match="cache_length=3 must be within the 4 tokens"):
        prefill(DENSE, params, state, texts(batch=1, length=4), jnp.array([4], jnp.int32), cache_length=3)


def test_a_capacity_in_evaluation_is_refused_and_none_in_evaluation_is_not():
    router = {"name": "top_k", "num_experts": 4, "noise_std": 0.0, "capacity_factor": 1.0}
    for evaluation, refused in (("train", True), (None, False)):
        built = build_method("routing", router | {"eval_capacity_factor": evaluation})
        model = dataclasses.replace(MIXED, moe=MoE(router=built, experts=MIXED.moe.experts))
        params, state = model.init(jax.random.key(0))
        if refused:
            with pytest.raises(SpecError, match="eval_capacity_factor=None"):
                generate(model, params, state, texts(length=4), steps=2)
        else:
            assert generate(model, params, state, texts(length=4), steps=2).tokens.shape == (3, 2)
