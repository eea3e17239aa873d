"""Language and diffusion models as subjects of compression: what quality says of themselves, and statistics of what weights read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.segments import split_segments
from moejax.core.spec import build_method
from moejax.data import build
from moejax.evals.compression_subject import Subject
from moejax.evals.diffusion_subject import DiffusionSubject
from moejax.evals.language_subject import LanguageSubject
from moejax.evals.task_subject import default_weights

MOE = {
    "router": {"name": "top_k", "num_experts": 2, "noise_std": 0.0, "capacity_factor": None},
    "experts": {"name": "swiglu", "expert_dim": 8},
}
DECODER = {
    "name": "decoder", "vocab_size": 257, "dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 8, "max_length": 16,
    "moe": MOE, "moe_layers": (1,),
}  # fmt: skip
DIT = {
    "name": "dit", "image_size": 8, "patch_size": 4, "channels": 3, "dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 8,
    "num_classes": 10, "moe": MOE, "moe_layers": (1,),
}  # fmt: skip


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for i in range(3):
        (folder / f"{i}.txt").write_text("".join(chr(65 + (i + 3 * j) % 57) for j in range(100)))
    data = build(
        {"name": "text_files", "folder": str(folder), "batch_size": 2, "eval_batch_size": 4, "sequence_length": 16}
    )
    return subject_of(LanguageSubject, {"name": "language", "model": DECODER}, data)


@pytest.fixture(scope="module")
def diffusion():
    data = build({"name": "digits", "image_size": 8, "batch_size": 4, "eval_batch_size": 4, "max_examples": 10})
    task = {"name": "diffusion", "process": {"name": "rectified_flow"}, "prediction": "flow", "model": DIT}
    return subject_of(DiffusionSubject, task, data)


def subject_of(kind, task, data):
    task = build_method("tasks", task)
    params, state = task.init(jax.random.key(0))
    # Gates and final layers start at zero; a model that is trained has none.
    params = jax.tree.map(lambda a: 3 * a + 0.05, params)
    return kind(
        name="tiny", task=task, params=split_segments(params), state=split_segments(state), dataset=data, examples=4,
        batch_size=4, chunk=2,
    )  # fmt: skip


def changed(subject):
    return jax.tree.map(lambda a: 0.9 * a, subject.params)


@pytest.mark.slow
def test_language(language):
    assert isinstance(language, Subject) and language.inputs.shape == (4, 16)
    quality = language.quality(language.params)
    assert quality["agreement"] == 1.0 and quality["kl"] == pytest.approx(0.0, abs=1e-6)
    assert set(language.reported) <= set(quality) and language.headline in quality
    # The same as the task says of the whole split, by another way: logits of all sequences at once.
    batches = list(language.dataset.eval_batches("test"))
    tokens, target, mask = (np.concatenate([b[n] for b in batches]) for n in ("tokens", "target", "mask"))
    log_probs = jax.nn.log_softmax(language.apply(language.params, jnp.asarray(tokens[mask])))
    real = target[mask] >= 0
    nll = -np.take_along_axis(np.asarray(log_probs), np.maximum(target[mask], 0)[..., None], -1)[..., 0][real].sum()
    size = language.dataset.info.split_bytes["test"]
    assert quality["bits_per_byte"] == pytest.approx(nll / np.log(2) / size, rel=1e-5) and real.sum() == size
    assert language.quality(changed(language))["kl"] > 1e-4
    assert language.loss(language.params, seed=0) > 0


@pytest.mark.slow
def test_diffusion(diffusion):
    assert isinstance(diffusion, Subject) and diffusion.inputs.shape == (4, 8, 8, 3)
    one, again = (diffusion.quality(diffusion.params) for _ in range(2))
    assert one == again, "the noise is always the same"
    assert set(one) == set(diffusion.reported)
    assert one["loss"] == pytest.approx(np.mean([one[f"loss/quarter_{i}"] for i in range(1, 5)]))
    assert diffusion.quality(changed(diffusion))["loss"] != one["loss"]
    # The loss of a calibration is the mean of its examples' losses, one by one: routing is dropless.
    (batch,) = diffusion.calibration(3)
    rows = [{n: v[i : i + 1] for n, v in batch.items()} for i in range(4)]
    alone = np.mean([float(diffusion.example_loss(diffusion.params, row)) for row in rows])
    assert diffusion.loss(diffusion.params, seed=3) == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["language", "diffusion"])
def test_statistics_are_of_the_experts_of_the_layer_that_has_some(which, request):
    subject = request.getfixturevalue(which)
    found = subject.collect(("second_moment", "fisher"), seed=1)
    names = {f"blocks/01/moe/experts/{name}" for name in ("up", "gate", "down")}
    assert names <= set(found.statistics) <= names | {"blocks/01/moe/router"}
    up = found.statistics["blocks/01/moe/experts/up"]
    assert up.second_moment.shape == (2, 8, 8) and np.isfinite(up.second_moment).all()
    assert found.examples == 4 and default_weights(subject.params) == subject.only


def test_dense_models_give_their_feed_forward_layers():
    decoder = {name: value for name, value in DECODER.items() if not name.startswith("moe")}
    params, _ = jax.eval_shape(build_method("models", decoder).init, jax.random.key(0))
    assert "feed_forward" in default_weights(params)


def test_costs_are_of_one_sequence(language):
    one, other = (dataclasses.replace(language, batch_size=size).flops(language.params) for size in (2, 4))
    assert (
        one == pytest.approx(other, rel=0.01) and other > 0
    )  # what is done once per batch is shared by more sequences
