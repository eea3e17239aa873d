"""The diffusion task over a model that returns a fixed share of what it sees, worked by hand, and over a tiny transformer."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.outputs import DenoiserOutput
from moejax.core.spec import build_method
from moejax.diffusion.guidance import Guidance
from moejax.diffusion.noise_assignment import NoiseAssignment
from moejax.diffusion.predictions import noised
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.tasks.diffusion import Diffusion

FLOW = RectifiedFlow()


@dataclasses.dataclass(frozen=True)
class Share:
    """Predicts share * x + label, in parameters; keeps what it was told in its metrics."""

    losses: tuple[float, ...] = ()
    learn_variance: bool = False
    label_dropout: float = 0.1
    num_classes: int = 3

    def init(self, key):
        del key
        return {"share": jnp.zeros(())}, {"calls": jnp.zeros((), jnp.int32)}

    def apply(self, params, state, x, time, label, *, key=None, return_plans=False):
        del return_plans
        shift = label.astype(jnp.float32)[:, None, None, None]
        return DenoiserOutput(
            prediction=params["share"] * x + jnp.broadcast_to(shift, x.shape),
            variance=jnp.zeros_like(x) if self.learn_variance else None,
            state={"calls": state["calls"] + 1},
            losses={f"loss_{i}": jnp.float32(value) for i, value in enumerate(self.losses)},
            metrics={"time": time, "trains": jnp.float32(key is not None)},
            plans={},
        )


def batch(size=2):
    images = jnp.linspace(-1.0, 1.0, size * 4, dtype=jnp.float32).reshape(size, 2, 2, 1)
    return {"image": images, "label": jnp.arange(size, dtype=jnp.int32) % 3}


def make(**fields):
    model = fields.pop("model", Share())
    return Diffusion(model=model, process=fields.pop("process", FLOW), **fields)


def test_the_loss_is_the_squared_error_of_the_target():
    task, data, key = make(), batch(), jax.random.key(4)
    params, state = task.init(key)
    total, (new_state, metrics) = task.loss({"share": jnp.float32(0.0)}, state, data, key)
    # The model says its label; the target of 'flow' is noise - x0, with the noise that the task draws from its key.
    times = np.asarray(metrics["time"]) / 1000
    assert ((times >= FLOW.min_time) & (times <= 1)).all()
    noise = np.asarray(task.noise.draw(jax.random.fold_in(key, zlib.crc32(b"noise")), data["image"]))
    wanted = ((np.asarray(data["label"])[:, None, None, None] - (noise - np.asarray(data["image"]))) ** 2).mean()
    np.testing.assert_allclose(float(total), wanted, rtol=1e-6)
    assert float(metrics["loss"]) == float(metrics["total_loss"]) == float(total)
    assert int(new_state["calls"]) == 1 and float(metrics["trains"]) == 1
    assert params["share"].shape == ()


def test_auxiliary_losses_are_added_with_their_weight():
    task = make(model=Share(losses=(0.5, 0.25)), aux_loss_weight=2.0)
    params, state = task.init(jax.random.key(0))
    total, (_, metrics) = task.loss(params, state, batch(), jax.random.key(1))
    np.testing.assert_allclose(float(total), float(metrics["loss"]) + 2.0 * 0.75, rtol=1e-6)
    assert float(metrics["aux/loss_1"]) == 0.25


def test_min_snr_weights_the_loss():
    # Prediction x0, gamma 1: every example with more signal than noise weighs 1, every other its SNR.
    data, key = batch(64), jax.random.key(2)
    plain, weighted = (make(prediction="x0", min_snr_gamma=gamma) for gamma in (None, 1.0))
    params, state = plain.init(key)
    found = [float(task.loss(params, state, data, key)[0]) for task in (plain, weighted)]
    assert 0 < found[1] < found[0]


def test_without_a_key_the_loss_is_always_the_same():
    task, data = make(), batch()
    params, state = task.init(jax.random.key(0))
    first, (_, metrics) = task.loss(params, state, data, None)
    assert float(first) == float(task.loss(params, state, data, None)[0])
    assert float(metrics["trains"]) == 0


def test_evaluation_asks_in_every_quarter_and_leaves_padding_out():
    task, data = make(), batch(8)
    params, state = {"share": jnp.float32(0.0)}, {"calls": jnp.zeros((), jnp.int32)}
    mask = jnp.arange(8) < 6
    examples, metrics = task.evaluate_with_metrics(params, state, data | {"mask": mask})
    assert examples["loss"].shape == (8, 4)
    assert (np.asarray(examples["loss"])[6:] == 0).all() and (np.asarray(examples["label"])[6:] == -1).all()
    # 8 times, one in each eighth of the second quarter.
    times = np.sort(np.asarray(metrics["time"]) / 1000)
    low, high = FLOW.min_time, FLOW.max_time
    eighths = low + (high - low) * (1 + (np.arange(8) + 0.5) / 8) / 4
    np.testing.assert_allclose(times, eighths, rtol=1e-5)
    summary = task.summarise({name: np.asarray(value) for name, value in examples.items()}, None)
    rows = np.asarray(examples["loss"])[:6]
    np.testing.assert_allclose(summary["loss"], rows.mean(), rtol=1e-6)
    np.testing.assert_allclose(summary["loss/quarter_3"], rows[:, 2].mean(), rtol=1e-6)


def test_an_empty_split():
    with pytest.raises(SpecError, match="no examples"):
        make().summarise({"mask": np.zeros(3, bool), "loss": np.zeros((3, 4))}, None)


def test_the_denoiser_says_what_the_prediction_means():
    # Flow prediction v = label: x0 = x - t v, noise = x + (1 - t) v.
    task = make()
    params, state = task.init(jax.random.key(0))
    x, t = jnp.full((2, 2, 2, 1), 0.5, jnp.float32), jnp.asarray([0.25, 0.5], jnp.float32)
    found = task.denoiser(params, state, jnp.asarray([1, 2], jnp.int32))(x, t)
    np.testing.assert_allclose(np.asarray(found.x0)[:, 0, 0, 0], [0.5 - 0.25 * 1, 0.5 - 0.5 * 2])
    np.testing.assert_allclose(np.asarray(found.noise)[:, 0, 0, 0], [0.5 + 0.75 * 1, 0.5 + 0.5 * 2])


def test_guidance_goes_beyond_the_condition():
    # Unconditional: the null label 3. Guided flow: v_3 + 2 (v_1 - v_3) = 3 + 2 (1 - 3) = -1, so x0 = 0.5 + 0.25.
    task = make()
    params, state = task.init(jax.random.key(0))
    x, t = jnp.full((1, 2, 2, 1), 0.5, jnp.float32), jnp.asarray([0.25], jnp.float32)
    found = task.denoiser(params, state, jnp.asarray([1], jnp.int32), guidance=Guidance(scale=2.0))(x, t)
    np.testing.assert_allclose(np.asarray(found.x0)[0, 0, 0, 0], 0.75, rtol=1e-6)


def test_guidance_needs_label_dropout():
    task = make(model=Share(label_dropout=0.0))
    params, state = task.init(jax.random.key(0))
    with pytest.raises(SpecError, match="label_dropout=0"):
        task.denoiser(params, state, jnp.zeros(1, jnp.int32), guidance=Guidance(scale=2.0))
    task.denoiser(params, state, jnp.zeros(1, jnp.int32), guidance=Guidance(scale=1.0))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class(label):
    task = make()
    params, state = task.init(jax.random.key(0))
    with pytest.raises(SpecError, match=f"label {label} is no class"):
        task.denoiser(params, state, jnp.asarray([0, label], jnp.int32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_type": "hybrd"}, "hybrid"),
        ({"loss_type": "hybrid"}, "learn"),
        ({"prediction": "flw"}, "flow"),
        ({"aux_loss_weight": -1.0}, "aux_loss_weight"),
    ],
)
def test_what_cannot_be_built(fields, message):
    with pytest.raises(SpecError, match=message):
        make(**fields)


def tiny(**fields):
    model = {"name": "dit", "image_size": 4, "patch_size": 2, "channels": 1, "dim": 8, "depth": 1, "num_heads": 2,
             "mlp_dim": 8, "num_classes": 3, "label_dropout": 0.1}  # fmt: skip
    task = {"name": "diffusion", "process": "rectified_flow", "model": model | fields.pop("model", {})} | fields
    return build_method("tasks", task, path="config.task")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"noise": {"method": "linear"}},
        {"noise": {"method": "nearest", "num_draws": 2}},
        {"process": {"name": "ddpm"}, "prediction": "noise", "loss_type": "hybrid", "model": {"learn_variance": True}},
        {"process": {"name": "vp"}, "prediction": "velocity", "min_snr_gamma": 5.0},
    ],
    ids=["flow", "linear", "nearest", "ddpm_hybrid", "vp_velocity"],
)
def test_gradients_reach_the_parameters(fields):
    task = tiny(**fields)
    params, state = task.init(jax.random.key(0))
    data = {"image": jax.random.normal(jax.random.key(1), (4, 4, 4, 1)), "label": jnp.asarray([0, 1, 2, 0], jnp.int32)}
    grads, (_, metrics) = jax.jit(jax.grad(task.loss, has_aux=True))(params, state, data, jax.random.key(2))
    norms = [float(jnp.sum(g * g)) for g in jax.tree.leaves(grads)]
    assert np.isfinite(norms).all() and sum(norms) > 0
    assert np.isfinite(float(metrics["loss"]))


def test_the_linear_assignment_changes_the_noise_alone():
    task = make(noise=NoiseAssignment(method="linear"))
    params, state = task.init(jax.random.key(0))
    plain, assigned = (t.loss(params, state, batch(6), jax.random.key(3))[0] for t in (make(), task))
    assert float(plain) != float(assigned)


def test_examples_hold_processes():
    assert isinstance(Diffusion(model=None, process=DDPM(), prediction="noise").process, DDPM)
    assert noised(FLOW, jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.asarray([0.25])).shape == (1, 2)
