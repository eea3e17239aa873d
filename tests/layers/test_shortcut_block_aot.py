"""Blocks compiled for eight TPU chips that are not here: what the compiler puts between the two halves of an exchange."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moejax.experts.mlp import MlpExperts
from moejax.layers.attention import Attention
from moejax.layers.block import Block
from moejax.layers.moe import MoE
from moejax.layers.shortcut_block import ShortcutBlock
from moejax.routing.top_k import TopKRouter
from moejax.sharding.mesh import BATCH_AXES, MeshSpec
from moejax.sharding.rules import Rules, param_specs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed; `pip install 'jax[tpu]'` brings the compiler for TPUs",
    ),
]
B, T, D = 8, 256, 256
ASYNCHRONOUS = {"xla_tpu_enable_async_all_to_all": True}  # without it the compiler runs every all-to-all alone


@pytest.fixture(autouse=True, scope="module")
def compiler_alone():
    """No look-up of cloud metadata, and several processes may load the compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        yield


def compiled_lines(kind):
    """The lines of the compiled program, in the order in which they run."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    mesh = MeshSpec(data=1, expert=8).build(list(devices))
    router = TopKRouter(num_experts=16, num_selected_experts=2, noise_std=0.0, capacity_factor=1.25)
    bank = MlpExperts(expert_dim=512)
    block = kind(attention=Attention(num_heads=4), mixer=MoE(router=router, experts=bank, shared=bank))
    params, state = jax.eval_shape(lambda: block.init(jax.random.key(0), D))
    place = lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))  # noqa: E731
    x = place(jax.ShapeDtypeStruct((B, T, D), jnp.float32), P(BATCH_AXES))
    given = {"shortcut": x} if kind is ShortcutBlock else {}
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        run = jax.jit(lambda params, x, given: block.apply(params, state, x, **given).tokens)
        lowered = run.lower(jax.tree.map(place, params, param_specs(params, Rules())), x, given)
        text = lowered.compile(compiler_options=ASYNCHRONOUS).as_text()
    return text[text.index("\nENTRY") :].splitlines()


def during_exchanges(lines):
    """The lines between the start of an all-to-all and its end."""
    found, running = [], 0
    for line in lines:
        running -= bool(re.search(r" all-to-all-done\(", line))
        if running > 0:
            found.append(line)
        running += bool(re.search(r" all-to-all-start\(", line))
    return found


def attends(lines):
    return any("BHTD,BHSD->BHTS/dot_general" in line for line in lines)


def test_the_attention_runs_while_tokens_travel():
    shortcut, ordinary = compiled_lines(ShortcutBlock), compiled_lines(Block)
    assert attends(shortcut) and attends(ordinary)
    assert attends(during_exchanges(shortcut))
    assert not attends(during_exchanges(ordinary))
