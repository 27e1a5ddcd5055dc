"""What is read off a compiled program: its collectives with their bytes, loops with their trips, arrays."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from ssl_jax import hlo
from ssl_jax.collectives import Collective, collectives
from ssl_jax.sharding import by_example, data_mesh, replicated

# As libtpu 0.0.42 prints them for a v5e, shortened: an operation in three parts behind fusions, a pair of start and
# done, a loop without an annotated number of trips, and what leaves the slice.
TPU = """HloModule jit_f, is_scheduled=true, num_partitions=16

%start (p: f32[8,256]) -> (f32[8,256], f32[128,256]) {
  %p = f32[8,256]{1,0:T(8,128)S(1)} parameter(0)
  %all-gather.6 = f32[128,256]{1,0:T(8,128)} all-gather(%p), channel_id=3, replica_groups=mesh['a'=16,'b'=1] {'a'}, dimensions={0}
  ROOT %s = (f32[8,256]{1,0:T(8,128)S(1)}, f32[128,256]{1,0}, u32[]{:S(2)}) custom-call(%all-gather.6), custom_call_target="AsyncCollectiveStart"
}

%done (p: f32[8,256]) -> f32[128,256] {
  %p = f32[8,256]{1,0:T(8,128)S(1)} parameter(0)
  %all-gather.8 = f32[128,256]{1,0:T(8,128)} all-gather(%p), channel_id=3, replica_groups=mesh['a'=16,'b'=1] {'a'}, dimensions={0}
  ROOT %d = f32[128,256]{1,0} custom-call(%all-gather.8), custom_call_target="AsyncCollectiveDone"
}

%scatter (p: f32[64]) -> f32[16] {
  %p = f32[64]{0} parameter(0)
  ROOT %r = f32[16]{0} reduce-scatter(%p), channel_id=9, replica_groups=[4,4]<=[16], dimensions={0}, to_apply=%add
}

%body (s: (s32[], f32[8,256])) -> (s32[], f32[8,256]) {
  %s = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}) parameter(0)
  %x = f32[8,256]{1,0} get-tuple-element(%s), index=1
  %hop = (f32[8,256]{1,0:T(8,128)S(1)}, f32[8,256]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %y = f32[8,256]{1,0} collective-permute-done(%hop)
  ROOT %t = (s32[], f32[8,256]{1,0}) tuple(%i, %y)
}

%condition (s: (s32[], f32[8,256])) -> pred[] {
  %s = (s32[]{:T(128)}, f32[8,256]{1,0:T(8,128)S(1)}) parameter(0)
  %n = s32[]{:T(128)} constant(16), metadata={op_name="n"}
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

ENTRY %main (p: f32[8,256]) -> f32[128,256] {
  %p = f32[8,256]{1,0:T(8,128)} parameter(0)
  %a = (f32[8,256]{1,0:T(8,128)S(1)}, f32[128,256]{1,0}, u32[]{:S(2)}) fusion(%p), kind=kCustom, calls=%start
  %w = (s32[]{:T(128)}, /*index=1*/f32[8,256]{1,0:T(8,128)S(1)}) while(%t), condition=%condition, body=%body
  %r = (bf16[3,8]{1,0}, bf16[5]{0}) all-reduce(%x, %y), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %rs = ((f32[64]{0}), f32[16]{0}) async-start(%z), calls=%scatter
  %rd = f32[16]{0} async-done(%rs), calls=%scatter
  %send = (f32[24]{0}, u32[], token[]) send(%q, %after), channel_id=2, is_host_transfer=true
  %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true
  ROOT %b = f32[128,256]{1,0} fusion(%a), kind=kCustom, calls=%done
}
"""  # noqa: E501


def test_tpu_program():
    assert collectives(TPU) == [
        Collective("all-gather", 128 * 256 * 4, 16, 1, True),
        Collective("collective-permute", 8 * 256 * 4, 2, 16, True),
        Collective("all-reduce", (24 + 5) * 2, 4, 1, True),
        Collective("reduce-scatter", 64 * 4, 4, 1, True),
        Collective("send", 24 * 4, 2, 1, True),
    ]
    assert [c.sent for c in collectives(TPU)] == [122_880, 131_072, 87, 192, 96]


def test_loop_whose_trips_are_nowhere_is_counted_once_and_said_so():
    unknown = TPU.replace("constant(16)", "parameter(1)")
    [hop] = [c for c in collectives(unknown) if c.kind == "collective-permute"]
    assert (hop.times, hop.known) == (1, False)


@pytest.fixture(scope="module")
def program() -> str:
    """A sum over the batch, a gathered batch, and a block that goes round eight devices."""
    mesh = data_mesh()
    onwards = [(i, (i + 1) % 8) for i in range(8)]

    def around(x):
        return jax.lax.fori_loop(0, 8, lambda i, x: jax.lax.ppermute(x + 1, "data", onwards), x)

    def step(x):
        y = jnp.sin(x)
        mean = y.mean(0)
        gathered = jax.lax.with_sharding_constraint(jnp.cos(x[:, :3]), replicated(mesh))
        return mean, gathered, jax.shard_map(around, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(x)

    x = jax.ShapeDtypeStruct((64, 5), jnp.float32, sharding=by_example(mesh))
    return jax.jit(step).lower(x).compile().as_text()


def test_compiled_here(program):
    found = {c.kind: c for c in collectives(program)}
    assert found["all-reduce"] == Collective("all-reduce", 5 * 4, 8, 1, True)
    assert found["all-gather"] == Collective("all-gather", 64 * 3 * 4, 8, 1, True)
    assert found["collective-permute"] == Collective("collective-permute", 8 * 5 * 4, 2, 8, True)
    assert len(collectives(program)) == 3


def test_one_device_says_nothing():
    text = jax.jit(lambda x: jnp.sin(x).mean(0)).lower(jnp.ones((4, 2))).compile().as_text()
    assert collectives(text) == []
    assert any(x.opcode == "fusion" or "sine" in x.name for x, _ in hlo.walk(text))


def test_bytes_of_arrays():
    assert hlo.arrays("(f32[2,3]{1,0:T(8,128)}, pred[], /*index=2*/s4[7])") == [
        ("f32", (2, 3)),
        ("pred", ()),
        ("s4", (7,)),
    ]
    sizes = {("bf16", (5,)): 10, ("f32", ()): 4, ("pred", (3,)): 3, ("s4", (6,)): 3, ("f8e4m3fn", (4,)): 4}
    assert {key: hlo.size_of(*key) for key in sizes} == sizes
