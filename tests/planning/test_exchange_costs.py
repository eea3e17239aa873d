"""Bytes and times of exchanges: by hand, and against the collectives of compiled programs on eight devices."""

import pytest

from moejax.core.errors import SpecError
from moejax.planning.exchange_costs import STRATEGIES, Layer, Phase, phases, seconds, sent
from moejax.planning.links import Level, Links, links_of
from tests.child_programs import lines_of

LAYER = Layer(tokens=10, choices=2, experts=8, slots=24, width=16, number_bytes=4, latent=4)
LINKS = Links(2, Level(1e6, 1e-3, "inner"), Level(1e5, 1e-2, "outer"), 1e9)


def test_bytes_by_hand():
    # Eight devices in groups of two; buffers of 24 rows of 64 bytes, 1536 in all: an eighth to each device, there and back.
    assert sent(phases("all_to_all", LAYER, 8, 2)) == (2 * 1536 / 8, 2 * 1536 * 6 / 8)
    # Half to the neighbour; then three quarters to the three other groups.
    assert sent(phases("two_level", LAYER, 8, 2)) == (2 * 1536 / 2, 2 * 1536 * 3 / 4)
    assert sent(phases("int8", LAYER, 8, 2)) == (2 * 24 * (16 + 4) / 8, 2 * 24 * (16 + 4) * 6 / 8)
    assert sent(phases("latent", LAYER, 8, 2)) == (2 * 24 * 16 / 8, 2 * 24 * 16 * 6 / 8)
    # 20 rows of 64 bytes, and 8 counts.
    assert sent(phases("dropless", LAYER, 8, 2)) == ((2 * 1280 + 32) / 8, (2 * 1280 + 32) * 6 / 8)
    # Seven blocks of 640 bytes of tokens and 160 of plan, and 640 back: three of seven across, shared by a group's two.
    assert sent(phases("all_gather", LAYER, 8, 2)) == (4 * (800 + 640), 3 * (800 + 640))
    assert sent(phases("ring", LAYER, 8, 2)) == (0, 7 * 800 + 8 * 640)
    assert sent(phases("ring", LAYER, 2, 2)) == (800 + 2 * 640, 0)


def test_one_device_sends_nothing():
    assert {name: sent(phases(name, LAYER, 1, 8)) for name in STRATEGIES} == dict.fromkeys(STRATEGIES, (0, 0))


def test_seconds_by_hand():
    # Both levels at once, the slower counts: 2 messages and 1000 bytes inside, 3 and 500 between.
    phase = Phase(inner=1000, outer=500, inner_messages=2, outer_messages=3)
    assert phase.seconds(LINKS, 8, 1.0) == pytest.approx(max(2e-3 + 1e-3, 3e-2 + 5e-3))
    assert seconds((phase, phase), LINKS, 8) == pytest.approx(2 * 3.5e-2)
    loaded = Phase(outer=500, outer_messages=1, loaded=True)
    assert seconds((loaded,), LINKS, 8, skew=3.0) == pytest.approx(1e-2 + 3 * 5e-3)
    assert seconds((Phase(outer=500),), LINKS, 8, skew=3.0) == pytest.approx(5e-3)  # a fixed capacity feels no load


def test_messages_decide_on_many_devices():
    few = {name: seconds(phases(name, LAYER, 8, 2), LINKS, 8) for name in ("all_to_all", "two_level")}
    many = {name: seconds(phases(name, LAYER, 512, 2), LINKS, 512) for name in ("all_to_all", "two_level")}
    assert many["two_level"] < 0.6 * many["all_to_all"]
    assert few["two_level"] / few["all_to_all"] > many["two_level"] / many["all_to_all"]


def test_a_torus_is_narrow_in_the_middle():
    level = Level(200.0, 0.0, "", torus=True)
    assert level.spread_bandwidth(4) == 200 and level.spread_bandwidth(256) == pytest.approx(200 / 8)
    assert Level(200.0, 0.0, "").spread_bandwidth(256) == 200


def test_what_cannot_be():
    with pytest.raises(SpecError, match="Did you mean 'ring'"):
        phases("rings", LAYER, 8, 2)
    with pytest.raises(SpecError, match="groups of 3 do not divide 8"):
        phases("ring", LAYER, 8, 3)
    with pytest.raises(SpecError, match="Layer.latent"):
        phases("latent", Layer(tokens=1, choices=1, experts=1, slots=1, width=1), 8, 2)
    with pytest.raises(SpecError, match="there are h100, v5e".replace("there", "There")):
        links_of("abacus")


def test_assumed_figures_are_told_with_their_source():
    inside, between = links_of("h100").told()
    assert inside.startswith("inside a group of 8: 450 GB/s") and "data sheet" in inside
    assert "50 GB/s" in between and "latency assumed" in between


EIGHT = """
import functools, json
import jax, jax.numpy as jnp
from moejax.core.contracts import enter, leave
from moejax.core.plans import TokenChoice
from moejax.core.spec import build_method
from moejax.exchange.on_devices import bank_specs
from moejax.experts.latent import LatentExperts
from moejax.experts.mlp import MlpExperts
from moejax.planning.collectives import collectives
from moejax.sharding.mesh import MeshSpec
G, S, D, E, K, C, R = 8, 10, 16, 8, 2, 3, 4
plan = TokenChoice(jnp.zeros((G, S, K), jnp.int32), jnp.ones((G, S, K)), num_experts=E, capacity=C)
mesh = MeshSpec(data=1, expert=8).build()
dense = MlpExperts(expert_dim=32)
cases = {"all_to_all": ({}, dense), "two_level": ({"group": 2}, dense), "int8": ({"wire_dtype": "int8"}, dense),
         "latent": ({}, LatentExperts(expert_dim=32, rank=R)), "all_gather": (None, dense), "ring": (None, dense)}
for name, (options, bank) in cases.items():
    exchange = build_method("exchange", {"name": name} if options is None else {"name": "all_to_all"} | options)
    params = jax.eval_shape(functools.partial(bank.init, num_experts=E, dim=D), jax.random.key(0))
    with jax.set_mesh(mesh):
        run = lambda plan, x, params: leave(bank, params, exchange.dispatch("gather", plan, enter(bank, params, x), params, bank.apply))
        place = lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=jax.NamedSharding(mesh, spec))
        batch = jax.sharding.PartitionSpec(("data", "fsdp", "expert"))
        over = lambda tree: jax.tree.map(lambda a: place(a, batch), tree)
        held = jax.tree.map(place, params, bank_specs(params, mesh.abstract_mesh)[0])
        text = jax.jit(run).lower(over(plan), over(jnp.zeros((G, S, D))), held).compile().as_text()
    print(json.dumps([name, [[c.kind, c.devices, c.sent] for c in collectives(text)]]))
"""


@pytest.mark.slow
def test_bytes_are_those_of_compiled_programs():
    found = dict(lines_of("-c", EIGHT))
    # One group of ten tokens per device; eight experts of three slots.
    layer = Layer(tokens=10, choices=2, experts=8, slots=24, width=16, number_bytes=4, latent=4)
    for name, moved in found.items():
        assert sum(size for _, _, size in moved) == sum(sent(phases(name, layer, 8, 2))), name
    inner, outer = sent(phases("two_level", layer, 8, 2))
    by_size = {n: sum(size for _, devices, size in found["two_level"] if devices == n) for n in (2, 4)}
    assert by_size == {2: inner, 4: outer}  # neighbours, and the four groups
    assert set(found) == {"all_to_all", "two_level", "int8", "latent", "all_gather", "ring"}
