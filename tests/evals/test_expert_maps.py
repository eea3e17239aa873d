"""Expert maps on paper: a 2 x 2 grid with a drop, a class token, mixtures, and the painted picture."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.plans import SlotMix, TokenChoice
from moejax.evals.expert_maps import expert_maps, overlay, slot_maps, upscale

COLOURS = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)


def test_a_dropped_patch_has_no_expert():
    # Experts wanted: 0, 0, 1, 0 with two slots each: the last patch finds expert 0 full.
    plan = TokenChoice(
        jnp.array([[[0], [0], [1], [0]]]), jnp.array([[[0.5], [0.6], [0.7], [0.8]]]), num_experts=2, capacity=2
    )
    maps = expert_maps(plan, batch=1, grid=(2, 2), num_tokens=4)
    np.testing.assert_array_equal(maps.expert, [[[0, 0], [1, -1]]])
    np.testing.assert_allclose(maps.weight, [[[0.5, 0.6], [0.7, 0.0]]], rtol=1e-6)
    np.testing.assert_array_equal(maps.served, [[[1, 1], [1, 0]]])
    assert maps.kind == "routed"


def test_the_class_token_is_left_out_and_groups_may_hold_many_pictures():
    # Two pictures of 1 + 1 tokens in one group; first come the class tokens of each picture.
    plan = TokenChoice(jnp.array([[[1], [0], [1], [1]]]), jnp.ones((1, 4, 1)), num_experts=2)
    maps = expert_maps(plan, batch=2, grid=(1, 1), num_tokens=2)
    assert maps.expert.ravel().tolist() == [0, 1]
    with pytest.raises(SpecError, match="cannot cover"):
        expert_maps(plan, batch=2, grid=(2, 2), num_tokens=2)


def test_of_two_experts_the_heavier_is_shown():
    plan = TokenChoice(jnp.array([[[0, 1]]]), jnp.array([[[0.3, 0.4]]]), num_experts=2)
    maps = expert_maps(plan, batch=1, grid=(1, 1), num_tokens=1)
    assert maps.expert.item() == 1
    assert maps.served.item() == 2


def test_mixtures_show_the_dominant_expert_and_what_slots_see():
    combine = jnp.array([[[[0.2, 0.2], [0.5, 0.1]], [[0.4, 0.4], [0.1, 0.1]]]])  # two patches, two experts of two slots
    dispatch = jnp.array([[[[0.9, 0.5], [0.1, 0.2]], [[0.1, 0.5], [0.9, 0.8]]]])
    plan = SlotMix(dispatch=dispatch, combine=combine)
    maps = expert_maps(plan, batch=1, grid=(1, 2), num_tokens=2)
    np.testing.assert_array_equal(maps.expert, [[[1, 0]]])
    np.testing.assert_allclose(maps.weight, [[[0.6, 0.8]]], rtol=1e-6)  # 0.6 of 1.0, 0.8 of 1.0
    assert maps.kind == "mixed"
    slots = slot_maps(plan, batch=1, grid=(1, 2), num_tokens=2)
    np.testing.assert_allclose(slots[0, 1, 0], [[0.1, 0.9]], rtol=1e-6)  # expert 1, slot 0: both patches


def test_painting():
    image = np.full((4, 4, 3), 128, np.uint8)
    expert = np.array([[0, 0], [1, -1]], np.int32)
    weight = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    painted = overlay(image, expert, weight, COLOURS, factor=8)
    assert painted.shape == (32, 32, 3)
    strong, weak, other, dropped = painted[4, 4], painted[4, 24], painted[24, 4], painted[20:, 20:].reshape(-1, 3)
    assert strong[0] > weak[0] > 128  # both red, the heavier one more
    assert other[2] > other[0]  # blue
    assert (dropped[:, 0] == dropped[:, 1]).all() and len(np.unique(dropped[:, 0])) == 2  # grey with stripes
    with pytest.raises(SpecError, match="does not divide"):
        overlay(image, np.zeros((3, 3), np.int32), np.zeros((3, 3), np.float32), COLOURS)


def test_upscaling_repeats_pixels():
    assert upscale(np.array([[1, 2]]), 2).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
