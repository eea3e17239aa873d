"""Operations of HLO texts, with how often they run."""

import pytest

from moejax.core.errors import SpecError
from moejax.planning.hlo import Array, Operation, arrays, operations

TEXT = """HloModule jit_step, num_partitions=4

%inner (a: f32[2,3], b: f32[3,4]) -> f32[2,4] {
  %a = f32[2,3]{1,0} parameter(0)
  %b = f32[3,4]{1,0:T(8,128)} parameter(1)
  ROOT %dot.1 = f32[2,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[2,4])) -> (s32[], f32[2,4]) {
  %fusion = f32[2,4]{1,0} fusion(%x, %y), kind=kOutput, calls=%inner
  %nested = (s32[]) while(%start), condition=%never, body=%inner_body
  ROOT %next = (s32[], f32[2,4]{1,0}) tuple(%i, %fusion)
}

%inner_body (state: (s32[])) -> (s32[]) {
  ROOT %same = (s32[]) tuple(%i)
}

%condition (state: (s32[], f32[2,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: f32[2,4]) -> f32[2,4] {
  %loop = (s32[], f32[2,4]{1,0}) while(%start), condition=%condition, body=%body
  %begun = ((f32[2,3]), f32[2,4]) async-start(%y), calls=%inner
  %ended = f32[2,4] async-done(%begun), calls=%inner
  ROOT %out = f32[2,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def dots(kind, _):
    return kind == "dot"


def test_bodies_of_loops_run_as_often_as_they_go_round():
    found = operations(TEXT, dots)
    assert [operation.times for operation in found] == [7, 1]
    matrices = (Array("f32", (2, 3)), Array("f32", (3, 4)))
    assert found[0] == Operation("dot", (Array("f32", (2, 4)),), matrices, found[0].rest, 7)


def test_loops_that_the_data_end_count_once_and_say_so():
    endless = TEXT.replace("constant(7)", "parameter(0)")
    assert [(found.times, found.bounded) for found in operations(endless, dots)] == [(1, False), (1, True)]
    assert all(found.bounded for found in operations(TEXT, dots))


def test_arrays():
    assert arrays("(bf16[4,8]{1,0:T(8,128)(2,1)}, /*index=1*/f8e4m3fn[3], pred[])") == (
        Array("bf16", (4, 8)), Array("f8e4m3fn", (3,)), Array("pred", ()),
    )  # fmt: skip
    assert [array.bytes for array in arrays("(bf16[4,8], f8e4m3fn[3], pred[], s4[3])")] == [64, 3, 1, 2]
    with pytest.raises(SpecError, match="'c256'"):
        _ = Array("c256", (1,)).bytes


def test_what_is_no_module():
    with pytest.raises(SpecError, match="no ENTRY"):
        operations("nothing", dots)
