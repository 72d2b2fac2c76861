"""Counting in HLO text: a program written by hand whose figures can be checked with a pencil."""

import pytest

from llm_jax.planning import hlo, roofline

PROGRAM = """HloModule step

%body (arg: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %arg = (s32[], bf16[8,16]) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = bf16[8,16] get-tuple-element(%arg), index=1
  %one = s32[] constant(2)
  %next = s32[] add(%i, %one)
  %w = bf16[16,16] constant({...})
  %all = bf16[32,16] all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %y = bf16[8,16] dot(%x, %w), lhs_contracting_dims={1}, backend_config={"estimated_cycles":"100"}
  ROOT %out = (s32[], bf16[8,16]) tuple(%next, %y)
}

%condition (arg.1: (s32[], bf16[8,16])) -> pred[] {
  %arg.1 = (s32[], bf16[8,16]) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %limit = s32[] constant(11)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

%fused (p: bf16[4,8,16], q: bf16[16,32]) -> bf16[4,8,32] {
  %p = bf16[4,8,16] parameter(0)
  %q = bf16[16,32] parameter(1)
  ROOT %conv = bf16[4,8,32] convolution(%p, %q), window={size=1}, dim_labels=0bf_io->0bf
}

ENTRY %main (x.1: bf16[8,16], a: bf16[4,8,16], b: bf16[16,32]) -> bf16[8,16] {
  %x.1 = bf16[8,16] parameter(0)
  %a = bf16[4,8,16] parameter(1)
  %b = bf16[16,32] parameter(2)
  %start = s32[] constant(1)
  %state = (s32[], bf16[8,16]) tuple(%start, %x.1)
  %loop = (s32[], bf16[8,16]) while(%state), condition=%condition, body=%body
  %c = bf16[4,8,32] fusion(%a, %b), kind=kOutput, calls=%fused, backend_config={"estimated_cycles":"7"}
  %sum = bf16[4,8,32] all-reduce(%c), channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %kernel = bf16[8,16] custom-call(%x.1), custom_call_target="tpu_custom_call"
  ROOT %y.1 = bf16[8,16] get-tuple-element(%loop), index=1
}
"""
TRIPS = 5  # 1, 3, 5, 7, 9


def test_loops_are_weighted_by_their_trips():
    counted = hlo.analyse(PROGRAM, 8)
    in_loop, fused = 2 * 8 * 16 * 16, 2 * 4 * 8 * 16 * 32
    assert counted["gemm_flops"] == TRIPS * in_loop + fused
    assert counted["est_cycles"] == TRIPS * 100 + 7
    assert counted["unknown_loops"] == [] and counted["custom_calls"] == {"tpu_custom_call": 1}


def test_collectives_are_counted_by_their_larger_side():
    counted = hlo.analyse(PROGRAM, 8)
    gathered, reduced = TRIPS * 32 * 16 * 2, 4 * 8 * 32 * 2
    assert counted["collective_counts"] == {"all-gather": TRIPS, "all-reduce": 1}
    assert counted["collective_bytes"] == {"all-gather": gathered, "all-reduce": reduced}
    assert counted["wire_bytes"] == gathered * 3 / 4 + reduced * 2 * 1 / 2


def test_a_loop_without_a_readable_limit_is_named():
    counted = hlo.analyse(PROGRAM.replace("direction=LT", "direction=NE"), 8)
    assert counted["unknown_loops"] == ["loop"] and counted["collective_counts"]["all-gather"] == 1


@pytest.mark.parametrize("window, expected", [(0, 64.5), (1, 1.0), (4, 4 - 4 * 3 / 256), (500, 64.5)])
def test_attention_flops_follow_what_a_query_sees(tiny, window, expected):
    """The mean over a row of 128 of how many keys a query sees, counted one by one."""
    tiny.model.layer_pattern = (f"window:{window}",) if window else ("full",)
    T, m = 128, tiny.model
    seen = sum(min(t + 1, window or T) for t in range(T)) / T
    assert seen == pytest.approx(expected)
    weights = m.layers * (m.dim * m.head_dim * (2 * m.heads + 2 * m.kv_heads) + 3 * m.dim * m.ff_dim) + m.dim * 384
    assert roofline.forward_flops_per_token(m, 300, T) == pytest.approx(
        2 * weights + m.layers * 4 * m.heads * m.head_dim * seen
    )


def test_the_slowest_of_three_bounds_a_step():
    chip = roofline.Chip(flops=10.0, hbm_bytes=5.0, hbm_gib=1.0, link_bytes=2.0)
    assert roofline.projection(chip, 100.0, 10.0, 4.0) == (10.0, "compute")
    assert roofline.projection(chip, 100.0, 100.0, 4.0) == (20.0, "HBM")
    assert roofline.projection(chip, 1.0, 1.0, 4.0) == (2.0, "network")
