"""What is read from a program that XLA's TPU compiler optimised; the text below has the form of its output."""

from __future__ import annotations

import pytest

from seen_jax.bench.hlo import alike, arrays, cycles, exchanged, parse, steps

CONFIG = 'backend_config={"flag_configs":[],"window_config":{"estimated_cycles":"%d","iteration_bounds":["1"]}}'
PROGRAM = """HloModule jit_generate, is_scheduled=true

%fused_computation.1 (param_0: bf16[8,64]) -> bf16[8,64] {
  %param_0 = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %add.9 = bf16[8,64]{1,0:T(8,128)(2,1)} add(%param_0, %param_0), ONE_MILLION
}

%condition.2 (arg: (s32[], bf16[8,64])) -> pred[] {
  %constant.349 = s32[]{:T(128)} constant(4)
  %arg = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)}) parameter(0)
  %get-tuple-element.190 = s32[]{:T(128)} get-tuple-element(%arg), index=0
  ROOT %lt.6 = pred[]{:T(512)} compare(%get-tuple-element.190, %constant.349), direction=LT
}

%body.3 (arg.1: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %arg.1 = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)}) parameter(0)
  %fusion.5 = bf16[8,64]{1,0:T(8,128)(2,1)} fusion(%arg.1), kind=kLoop, calls=%fused_computation.1, HUNDRED
  %copy.1 = bf16[1,64,8]{1,2,0:T(8,128)(2,1)} copy(%fusion.5), TEN
  %copy-start.2 = (bf16[64,8]{1,0:T(8,128)S(1)}, bf16[8,64]{1,0}, u32[]{:S(2)}) copy-start(%fusion.5)
  ROOT %tuple.7 = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)}) tuple(%copy.1, %fusion.5)
}

%condition.4 (arg.2: (s32[], pred[])) -> pred[] {
  %arg.2 = (s32[]{:T(128)}, pred[]{:T(512)}) parameter(0)
  ROOT %and.1 = pred[]{:T(512)} fusion(%arg.2), kind=kLoop, calls=%fused_computation.1
}

%body.5 (arg.3: (s32[], pred[])) -> (s32[], pred[]) {
  %arg.3 = (s32[]{:T(128)}, pred[]{:T(512)}) parameter(0)
  %fusion.6 = bf16[8]{0} fusion(%arg.3), kind=kOutput, calls=%fused_computation.1, HUNDRED
  %all-gather-start.1 = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) all-gather-start(%fusion.6), dimensions={0}
  %while.2 = (s32[]{:T(128)}, bf16[8,64]{1,0}) while(%arg.3), condition=%condition.2, body=%body.3
  ROOT %tuple.8 = (s32[]{:T(128)}, pred[]{:T(512)}) tuple(%arg.3)
}

ENTRY %main.1 (p: bf16[8,64]) -> bf16[8,64] {
  %p = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  %copy.9 = bf16[8,64]{0,1:T(8,128)(2,1)} copy(%p), TEN
  %while.1 = (s32[]{:T(128)}, bf16[8,64]{1,0}) while(%copy.9), condition=%condition.2, body=%body.3
  ROOT %while.9 = (s32[]{:T(128)}, pred[]{:T(512)}) while(%while.1), condition=%condition.4, body=%body.5
}
"""
for word, number in (("ONE_MILLION", 1_000_000), ("HUNDRED", 100), ("TEN", 10)):
    PROGRAM = PROGRAM.replace(word, CONFIG % number)


def test_instructions_have_shapes_cycles_and_operands():
    computations, entry = parse(PROGRAM)
    assert entry == "main.1" and len(computations) == 6
    fusion = computations["body.3"][1]
    assert (fusion.name, fusion.kind, fusion.cycles, fusion.operands) == ("fusion.5", "fusion", 100.0, ["arg.1"])
    assert [shape.near for shape in computations["body.3"][3].shapes] == [True, False, True]
    assert arrays("bf16[28,64]{1,0}")[0].bytes == 2 * 28 * 64


def test_cycles_are_multiplied_by_the_trips_of_loops():
    """4 trips of a scan: 110 cycles each. What a fusion holds is not counted again."""
    assert cycles(steps(PROGRAM, uncounted=0)) == 10 + 4 * 110
    assert cycles(steps(PROGRAM, uncounted=7)) == 10 + 4 * 110 + 7 * (100 + 4 * 110)
    decoding = [step for step in steps(PROGRAM, uncounted=7) if step.decodes]
    assert cycles(decoding) == 7 * (100 + 4 * 110)


@pytest.mark.parametrize(
    "kind, sizes, names",
    [
        ("copy", (8, 64), ["copy.9", "copy.1", "copy.1"]),  # whatever its layout, once for each loop that it is in
        ("copy", (8, 32), []),
        ("all-gather", (32, 64), ["all-gather-start.1"]),
        ("all-reduce", (8, 64), []),
    ],
)
def test_copies_and_exchanges_are_listed_by_their_sizes(kind, sizes, names):
    program = steps(PROGRAM, uncounted=7)
    assert [step.instruction.name for step in alike(program, kind, [sizes])] == names


def test_exchanges_are_counted_by_their_largest_array():
    assert exchanged(steps(PROGRAM, uncounted=7)) == 7 * 2 * 32 * 64
