"""The dropless exchange compiled for eight TPU chips and eight H100s that are not here: rows travel by the ragged collective."""

import functools
import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from moejax.core.plans import TokenChoice
from moejax.exchange.all_to_all import AllToAll
from moejax.exchange.least_loaded import LeastLoaded
from moejax.exchange.on_devices import bank_specs
from moejax.experts.mlp import MlpExperts
from moejax.sharding.mesh import BATCH_AXES, MeshSpec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed; `pip install 'jax[tpu]'` brings the compiler for TPUs",
    ),
]
G, S, D, E, K = 8, 128, 128, 16, 2


@pytest.fixture(autouse=True, scope="module")
def compiler_alone():
    """No look-up of cloud metadata, and several processes may load the compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        yield


def compiled_text(exchange, **sizes):
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    mesh = MeshSpec(**sizes).build(list(devices))
    bank = MlpExperts(expert_dim=128)

    def loss(weight, expert, x, params):
        plan = TokenChoice(expert, weight, num_experts=E)
        return jnp.sum(exchange.dispatch("ragged", plan, x, params, bank.apply))

    params = jax.eval_shape(functools.partial(bank.init, num_experts=E, dim=D), jax.random.key(0))
    place = lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))  # noqa: E731
    specs = bank_specs(params, mesh.abstract_mesh)[0]
    by_group = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(BATCH_AXES)))
        for shape, dtype in (((G, S, K), jnp.float32), ((G, S, K), jnp.int32), ((G, S, D), jnp.float32))
    ]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        step = jax.jit(jax.grad(loss, argnums=(0, 2, 3)))
        return step.lower(*by_group, jax.tree.map(place, params, specs)).compile().as_text()


def test_rows_travel_as_they_are():
    text = compiled_text(AllToAll(), data=1, expert=8)
    assert len(re.findall(r"= \S+ ragged-all-to-all\(", text)) >= 4  # there and back, forward and backward
    chunks = [line for line in text.splitlines() if re.search(r" all-to-all\(", line) and "f32" in line]
    assert chunks == []


def test_two_levels_travel_in_chunks():
    text = compiled_text(AllToAll(group=4), data=1, expert=8)
    assert "ragged-all-to-all(" not in text and " all-to-all(" in text


def test_what_spills_travels_as_it_is():
    text = compiled_text(LeastLoaded(min_rows=1, receive_factor=2.0), data=1, expert=8)
    assert len(re.findall(r"= \S+ ragged-all-to-all\(", text)) >= 4
    room = 2 * G // 8 * S * K
    assert f"f32[{room},{D}]" in text and f"f32[{4 * room},{D}]" not in text  # twice the own rows, not eight times
