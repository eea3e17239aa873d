"""Expert usage by time, place and class: a model whose choices are planted, watched on noised pictures and on paths."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.outputs import DenoiserOutput
from moejax.core.plans import ExpertChoice, SlotMix, TokenChoice
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.evals.expert_usage import Watcher, shares, time_grid

PROCESS = RectifiedFlow(min_time=0.1)


@dataclasses.dataclass(frozen=True)
class Planted:
    """Four patches, two experts. Layer 0 goes by place, layer 1 by time, layer 2 by class; layer 3 drops a patch."""

    blocks: tuple[str, ...] = ("block_00", "block_01", "block_02", "block_03")
    num_tokens: int = 4
    num_classes: int = 3

    def apply(self, params, state, x, time, label, *, key=None, return_plans=False):
        assert return_plans
        batch = len(x)
        place = jnp.tile(jnp.array([0, 0, 1, 1]), (batch, 1))
        late = jnp.tile((time > 500.0).astype(jnp.int32)[:, None], (1, 4))
        by_class = jnp.tile(jnp.where(label == 2, 1, 0)[:, None], (1, 4)).astype(jnp.int32)
        plans = {}
        for name, expert in zip(self.blocks, (place, late, by_class, jnp.zeros_like(place)), strict=False):
            capacity = 3 if name == "block_03" else None
            plan = TokenChoice(expert[..., None], jnp.full((batch, 4, 1), 0.7), num_experts=2, capacity=capacity)
            plans[name] = plan
        return DenoiserOutput(x, None, state, {}, {}, plans)


def batches(sizes, seed=0):
    rng = np.random.default_rng(seed)
    for size, real in sizes:
        image = rng.normal(size=(size, 2, 2, 1)).astype(np.float32)
        yield {"image": image, "label": np.arange(size, dtype=np.int32) % 3, "mask": np.arange(size) < real}


def watch(model=None, sizes=((6, 6), (6, 3)), **options):
    times = time_grid(PROCESS, 4)
    return Watcher(model or Planted(), PROCESS, {}, {}).noised_pictures(batches(sizes), times=times, **options)


def test_planted_choices_come_out():
    usage = watch()
    assert usage.blocks == Planted().blocks and usage.grid == (2, 2) and usage.num_experts == 2
    assert usage.label.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]  # the rows that fill the second batch do not count
    np.testing.assert_allclose(usage.times, [0.1, 0.4, 0.7, 1.0], rtol=1e-6)
    place, time, by_class = usage.by_position(), usage.by_time(), usage.by_class()
    assert place.shape == (4, 4, 2) and time.shape == (4, 4, 2) and by_class.shape == (4, 3, 2)
    np.testing.assert_allclose(place[0, :, 1], [0, 0, 1, 1])
    np.testing.assert_allclose(place[1, :, 1], 0.5)
    np.testing.assert_allclose(time[1, :, 1], [0, 0, 1, 1])
    np.testing.assert_allclose(time[0, :, 1], 0.5)
    np.testing.assert_allclose(by_class[2, :, 1], [0, 0, 1])
    np.testing.assert_allclose(time[2, :, 1], 1 / 3)
    # Nine pictures at four times, of four patches each; capacity 3 drops the last patch of layer 3.
    np.testing.assert_allclose(usage.time_mass.sum((1, 2, 3)), [144, 144, 144, 108])
    np.testing.assert_allclose(usage.place_mass.sum((1, 2, 3)), [144, 144, 144, 108])
    np.testing.assert_allclose(place[3], [[1, 0], [1, 0], [1, 0], [0, 0]])
    np.testing.assert_allclose(usage.time_mass.sum(2), usage.place_mass.sum(2))
    assert usage.arrays()["by_class"].shape == (4, 3, 2)


def test_whole_batches_until_there_are_enough():
    assert len(watch(sizes=((6, 6), (6, 6), (6, 6)), max_pictures=7).label) == 12


def test_mixtures_and_expert_choice_are_counted_too():
    @dataclasses.dataclass(frozen=True)
    class Mixed(Planted):
        def apply(self, params, state, x, time, label, *, key=None, return_plans=False):
            ones = jnp.ones((len(x), 4, 2, 1))
            combine = ones * jnp.array([0.75, 0.25])[None, None, :, None]
            token = jnp.tile(jnp.array([[0, 1], [1, 1]]), (len(x), 1, 1))
            choice = ExpertChoice(token[..., :1], jnp.ones((len(x), 2, 1)))
            plans = {"block_00": SlotMix(dispatch=ones / 4, combine=combine), "block_01": choice}
            return DenoiserOutput(x, None, state, {}, {}, plans)

    usage = watch(Mixed())
    np.testing.assert_allclose(usage.by_position()[0], np.tile([0.75, 0.25], (4, 1)))
    # Expert 0 takes place 0, expert 1 place 1; nobody takes the others.
    np.testing.assert_allclose(usage.by_position()[1], [[1, 0], [0, 1], [0, 0], [0, 0]])


def test_groups_may_hold_many_pictures():
    @dataclasses.dataclass(frozen=True)
    class Grouped(Planted):
        def apply(self, params, state, x, time, label, *, key=None, return_plans=False):
            expert = jnp.tile(jnp.array([0, 0, 1, 1]), (len(x), 1)).reshape(1, -1, 1)
            plan = TokenChoice(expert, jnp.ones(expert.shape), num_experts=2)
            return DenoiserOutput(x, None, state, {}, {}, {"block_00": plan})

    np.testing.assert_allclose(watch(Grouped()).by_position()[0, :, 1], [0, 0, 1, 1])


def test_paths_are_put_in_the_order_of_the_times():
    watcher = Watcher(Planted(), PROCESS, {}, {})
    path = np.zeros((3, 2, 2, 2, 1), np.float32)
    usage = watcher.trajectories([(path, np.array([0, 2], np.int32))] * 2, times=np.array([1.0, 0.6, 0.1], np.float32))
    np.testing.assert_allclose(usage.times, [0.1, 0.6, 1.0], rtol=1e-6)
    np.testing.assert_allclose(usage.by_time()[1, :, 1], [0, 1, 1])
    assert usage.label.tolist() == [0, 2, 0, 2]
    with pytest.raises(SpecError, match="3 states does not fit 2 times"):
        watcher.trajectories([(path, np.array([0, 2], np.int32))], times=np.array([1.0, 0.1], np.float32))


def test_bad_input_is_named():
    with pytest.raises(SpecError, match="no layer with experts"):
        watch(Planted(blocks=()))
    with pytest.raises(SpecError, match="no pictures"):
        watch(sizes=())
    with pytest.raises(SpecError, match="0 times"):
        time_grid(PROCESS, 0)


def test_shares_of_empty_rows_stay_zero():
    np.testing.assert_allclose(shares(np.array([[1.0, 3.0], [0.0, 0.0]])), [[0.25, 0.75], [0.0, 0.0]])
