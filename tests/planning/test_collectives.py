"""Collectives of HLO texts: a small one by hand, and a real step of every exchange on eight devices."""

import pytest

from moejax.core.errors import SpecError
from moejax.planning.collectives import Collective, bytes_by_kind, collectives
from tests.child_programs import lines_of

TEXT = """HloModule jit_step, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%wrapped (p: bf16[4,8]) -> bf16[32,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %gather = bf16[32,8]{1,0} all-gather(%p), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
}

%body (state: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %state = (s32[], f32[8,16]{1,0}) parameter(0)
  %x = f32[8,16]{1,0} get-tuple-element(%state), index=1
  %all-to-all = (f32[2,16]{1,0}, f32[2,16]{1,0}, f32[2,16]{1,0}, f32[2,16]{1,0}) all-to-all(%a, %b, %c, %d), replica_groups={{0,1,2,3},{4,5,6,7}}
  %scatter = f32[2,16]{1,0} reduce-scatter(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
  ROOT %next = (s32[], f32[8,16]{1,0}) tuple(%i, %x)
}

%condition (state: (s32[], f32[8,16])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %loop = (s32[], f32[8,16]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %begun = ((bf16[4,8]), bf16[32,8]) async-start(%y), calls=%wrapped
  %reduce = f32[10]{0} all-reduce(%z), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  %gather-start = (f32[2]{0}, f32[8]{0}) all-gather-start(%v), replica_groups=[2,4]<=[8], dimensions={0}
  %gather-done = f32[8]{0} all-gather-done(%gather-start)
  %hop = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%w), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  ROOT %out = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_by_hand():
    found = collectives(TEXT)
    assert found == [
        Collective("all-to-all", 4 * 2 * 16 * 4, 4, 3),
        Collective("reduce-scatter", 4 * 2 * 16 * 4, 4, 3),
        Collective("all-gather", 32 * 8 * 2, 8, 1),
        Collective("all-reduce", 40, 2, 1),
        Collective("all-gather", 32, 4, 1),
        Collective("collective-permute", 24, 4, 1),
    ]
    assert bytes_by_kind(found) == {
        "all-gather": 512 * 7 / 8 + 32 * 3 / 4,
        "all-reduce": 2 * 40 / 2,
        "reduce-scatter": 3 * 512 * 3 / 4,
        "all-to-all": 3 * 512 * 3 / 4,
        "collective-permute": 24,
    }


def test_rounds_from_the_condition():
    without = TEXT.replace('{"known_trip_count":{"n":"3"}}', "{}")
    limit = without.replace("-> pred[] {", "-> pred[] {\n  %limit = s32[]{:T(128)} constant(5)", 1)
    assert [found.times for found in collectives(limit)] == [5, 5, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("mesh['axis_0'=8,'axis_1'=4] {'axis_0'}", 8),
        ("mesh['axis_0'=8,'axis_1'=4] {'axis_0','axis_1'}", 32),
        ("@mesh ['data'=2,'expert'=16]{'expert':(1)4}".replace(" [", "["), 4),
        ("mesh['a'=2,'b'=4], device_ids=(3,2,1,0) {'b'}", 4),
        ("[4,2]<=[8]", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("{}", 8),
    ],
)
def test_ways_to_write_groups(groups, devices):
    line = f"  %sum = f32[10]{{0}} all-reduce(%z), replica_groups={groups}, use_global_device_ids=true, to_apply=%add"
    text = f"HloModule m, num_partitions=8\n\nENTRY %main (x: f32[10]) -> f32[10] {{\n{line}\n}}\n"
    assert collectives(text) == [Collective("all-reduce", 40, devices, 1)]


def test_beginnings_name_operands_and_results():
    lines = [
        "  %x = f32[8,4]{1,0} parameter(0)",
        "  %y = f32[16]{0} parameter(1)",
        "  %a = ((f32[8,4], f32[16]), (f32[2,4], f32[4])) reduce-scatter-start(%x, %y), replica_groups=[1,4]<=[4], to_apply=%add",
        "  %b = ((f32[8,4]), f32[8,4], u32[]) all-to-all-start(%x), replica_groups=[1,4]<=[4], dimensions={0}",
        "  %c = (f32[8,4], f32[16]) all-reduce-start(%x, %y), replica_groups=[1,4]<=[4], to_apply=%add",
    ]
    text = "HloModule m, num_partitions=4\n\nENTRY %main (x: f32[10]) -> f32[10] {\n" + "\n".join(lines) + "\n}\n"
    assert collectives(text) == [
        Collective("reduce-scatter", 4 * (32 + 16), 4, 1),
        Collective("all-to-all", 128, 4, 1),
        Collective("all-reduce", 192, 4, 1),
    ]


def test_ragged_rows_fill_the_smaller_side():
    lines = [
        "  %rows = bf16[6,4]{1,0} parameter(0)",
        "  %room = bf16[24,4]{1,0} parameter(1)",
        "  %there = bf16[24,4]{1,0} ragged-all-to-all(%rows, %room, %a, %b, %c, %d), replica_groups={{0,1,2,3}}",
        "  %back = bf16[6,4]{1,0} ragged-all-to-all(%there, %rows, %a, %b, %c, %d), replica_groups={{0,1,2,3}}",
    ]
    text = "HloModule m, num_partitions=4\n\nENTRY %main (x: f32[10]) -> f32[10] {\n" + "\n".join(lines) + "\n}\n"
    assert collectives(text) == [Collective("ragged-all-to-all", 48, 4, 1)] * 2


def test_what_cannot_be_counted():
    with pytest.raises(SpecError, match="no ENTRY"):
        collectives("nothing")
    with pytest.raises(SpecError, match="unknown number of times"):
        collectives(TEXT.replace('{"known_trip_count":{"n":"3"}}', "{}"))
    with pytest.raises(SpecError, match="'c256'"):
        collectives(TEXT.replace("f32[10]", "c256[10]"))
    with pytest.raises(SpecError, match="devices cannot be read: replica_groups=<.>"):
        collectives(TEXT.replace("replica_groups={{0,4},{1,5},{2,6},{3,7}}", "replica_groups=<?>"))


EIGHT = """
import functools, json
import jax, jax.numpy as jnp
from moejax.core.plans import TokenChoice
from moejax.core.spec import build_method
from moejax.experts.mlp import MlpExperts
from moejax.planning.collectives import bytes_by_kind, collectives
from moejax.sharding.mesh import MeshSpec
plan = TokenChoice(jnp.zeros((8, 6, 2), jnp.int32), jnp.ones((8, 6, 2)), num_experts=8, capacity=3)
bank = MlpExperts(expert_dim=32)
params = jax.eval_shape(functools.partial(bank.init, num_experts=8, dim=16), jax.random.key(0))
for config in ({"name": "all_to_all"}, {"name": "all_to_all", "group": 2}, {"name": "all_gather"}, {"name": "ring"}):
    exchange = build_method("exchange", config)
    mesh = MeshSpec(data=2, expert=4).build()
    with jax.set_mesh(mesh):
        run = jax.jit(lambda plan, x, params: exchange.dispatch("gather", plan, x, params, bank.apply))
        batch = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp", "expert")))
        place = lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=jax.NamedSharding(mesh, spec))
        over = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=batch), tree)
        from moejax.exchange.on_devices import bank_specs
        held = jax.tree.map(place, params, bank_specs(params, mesh.abstract_mesh)[0])
        text = run.lower(over(plan), over(jnp.zeros((8, 6, 16))), held).compile().as_text()
    print(json.dumps(bytes_by_kind(collectives(text))))
"""


@pytest.mark.slow
def test_bytes_of_real_programs():
    flat, levels, gather, ring = lines_of("-c", EIGHT)
    slots = 4 * 8 * 3 * 16  # E C D float32 of the one group of each device
    assert flat == {"all-to-all": 2 * slots * 3 / 4}
    assert levels == {"all-to-all": 2 * (slots * 1 / 2 + slots * 1 / 2)}  # among 2 neighbours, then among 2 groups
    tokens, choices = 4 * 6 * 16, 4 * 6 * 2
    assert gather == {"all-gather": 3 * (tokens + 2 * choices), "reduce-scatter": 3 * tokens}
    assert ring == {"collective-permute": 3 * (tokens + 2 * choices) + 4 * tokens}
