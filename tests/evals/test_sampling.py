"""Samples of a task whose flow is known: every picture ends where its own noise says, whatever it is computed with."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.outputs import DenoiserOutput
from moejax.diffusion.guidance import Guidance
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.samplers.ancestral import Ancestral
from moejax.diffusion.samplers.euler import Euler
from moejax.evals.sampling import Generator, labels_of, to_bytes
from moejax.tasks.diffusion import Diffusion


@dataclasses.dataclass(frozen=True)
class ConstantFlow:
    """Says the flow is the label, wherever it is: after time 1 to 0, x = noise - label (null label 3)."""

    image_size: int = 2
    channels: int = 1
    num_classes: int = 3
    label_dropout: float = 0.1
    learn_variance: bool = False
    group: int = 1

    def check_batch(self, batch_size):
        if batch_size % self.group:
            raise SpecError(f"use a batch that is a multiple of {self.group}")

    def init(self, key):
        del key
        return {}, {}

    def apply(self, params, state, x, time, label, *, key=None, return_plans=False):
        del params, time, key, return_plans
        flow = jnp.broadcast_to(label.astype(jnp.float32)[:, None, None, None], x.shape)
        return DenoiserOutput(prediction=flow, variance=None, state=state, losses={}, metrics={}, plans={})


def generator(**fields):
    model = fields.pop("model", ConstantFlow())
    task = Diffusion(model=model, process=RectifiedFlow())
    return Generator(task, {}, {}, fields.pop("sampler", Euler(num_steps=4)), **fields)


def test_a_constant_flow_ends_at_noise_minus_flow():
    labels = np.asarray([0, 1, 2, 2, 1], np.int32)
    found = generator(batch_size=2).sample(labels, seed=3)
    zero = generator(batch_size=2).sample(np.zeros(5, np.int32), seed=3)
    assert found.x.shape == (5, 2, 2, 1)
    np.testing.assert_allclose(found.x, zero.x - labels[:, None, None, None], atol=1e-5)
    assert abs(zero.x).max() > 0.5  # the noise itself


def test_a_picture_depends_on_its_own_noise_alone():
    labels = np.asarray([0, 1, 2, 0, 1], np.int32)
    found = [generator(batch_size=size).sample(labels, seed=1).x for size in (1, 2, 5)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    assert not np.allclose(found[0], generator(batch_size=5).sample(labels, seed=2).x)


def test_the_way_is_recorded():
    found = generator(batch_size=2).sample(np.asarray([0, 1, 2], np.int32), record=True)
    assert found.path.shape == (5, 3, 2, 2, 1) and found.estimates.shape == (4, 3, 2, 2, 1)
    np.testing.assert_array_equal(found.path[-1], found.x)


def test_guidance_moves_away_from_the_null_label():
    # Flow 1 guided by 2 away from the null label's flow 3: 3 + 2 (1 - 3) = -1.
    label = np.ones(2, np.int32)
    plain = generator(batch_size=2).sample(label)
    guided = generator(batch_size=2, guidance=Guidance(scale=2.0)).sample(label)
    np.testing.assert_allclose(guided.x, plain.x + 1.0 + 1.0, atol=1e-5)


def test_a_stochastic_sampler_gets_its_key():
    found = [
        generator(batch_size=2, sampler=Ancestral(num_steps=3)).sample(np.ones(2, np.int32), seed=s).x
        for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_what_cannot_be_sampled():
    with pytest.raises(SpecError, match="label 3 is no class"):
        generator(batch_size=2).sample(np.asarray([3], np.int32))
    with pytest.raises(SpecError, match="batch_size=0"):
        generator(batch_size=0)
    with pytest.raises(SpecError, match="multiple of 4"):
        generator(batch_size=2, model=ConstantFlow(group=4))


def test_bytes_and_labels():
    pictures = np.asarray([-2.0, -1.0, 0.0, 1.0, 9.0], np.float32).reshape(5, 1, 1, 1)
    np.testing.assert_array_equal(to_bytes(pictures).ravel(), [0, 0, 128, 255, 255])
    np.testing.assert_array_equal(labels_of([2, 0], 3), [2, 2, 2, 0, 0, 0])


def test_latents_are_decoded():
    latents = np.linspace(-1, 1, 11, dtype=np.float32).reshape(11, 1, 1, 1)
    found = to_bytes(latents, lambda x: jnp.repeat(jnp.repeat(-x, 2, axis=1), 2, axis=2))
    assert found.shape == (11, 2, 2, 1)
    np.testing.assert_array_equal(found[:, 0, 0, 0], to_bytes(-latents)[:, 0, 0, 0])
