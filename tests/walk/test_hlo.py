"""The reading of compiled programs, on text as XLA writes it in all supported versions."""

import pytest

from precis.walk.hlo import RanProduct, mark_of, products_in

NEW = """
%fused (param_0: bf16[4,8], param_1: bf16[8,8]) -> f32[4,8] {
  %param_0 = bf16[4,8]{1,0} parameter(0)
  %param_1 = bf16[8,8]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,8]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}, METADATA
}
"""
OLD = """
%fused (param_0: bf16[4,8], param_1: bf16[8,8]) -> f32[4,8] {
  ROOT %dot.1 = f32[4,8]{1,0} dot(bf16[4,8]{1,0} %param_0, bf16[8,8]{1,0} %param_1), METADATA
}
"""


def named(text, scope):
    return text.replace("METADATA", f'metadata={{op_name="{scope}"}}')


@pytest.mark.parametrize("text", [NEW, OLD])
@pytest.mark.parametrize(
    ("scope", "is_backward"),
    [
        ("jit(f)/jvp(precis[mlp/up])/dot_general", False),
        ("jit(f)/transpose(jvp(precis[mlp/up]))/dot_general", True),
        ("jit(f)/transpose(jvp())/checkpoint/precis[mlp/up]/dot_general", True),
        # Computed anew for the backward pass, by jax.checkpoint: the forward product once more.
        ("jit(f)/transpose(jvp())/checkpoint/rematted_computation/precis[mlp/up]/dot", False),
    ],
)
def test_a_product_in_a_fusion(text, scope, is_backward):
    (found,) = products_in(named(text, scope))
    assert found == RanProduct("mlp/up", "bfloat16", "bfloat16", "float32", is_backward)


def test_what_has_no_name_belongs_to_no_site_not_even_the_one_with_an_empty_path():
    (unnamed,) = products_in(NEW.replace("METADATA", ""))
    (other,) = products_in(named(NEW, "jit(f)/dot_general"))
    (empty,) = products_in(named(NEW, f"jit(f)/{mark_of('')}/dot_general"))
    assert (unnamed.path, other.path, empty.path) == (None, None, "")


def test_what_the_compiler_rewrote_to_a_call_is_not_read():
    call = '%dot.1 = f32[4,8]{1,0} custom-call(%a, %b), custom_call_target="__onednn$matmul", '
    assert not list(products_in(named(call + "METADATA", "jit(f)/precis[mlp/up]/dot_general")))


CUBLAS = """
%main (x: bf16[32,64], w: f8e5m2[64,16]) -> f32[32,16] {
  %x = bf16[32,64]{1,0} parameter(0)
  %w = f8e5m2[64,16]{1,0} parameter(1)
  %low = f8e4m3fn[32,64]{1,0} fusion(%x), kind=kLoop, calls=%narrowed
  %one = f32[] constant(1)
  %dot.1 = (f32[32,16]{1,0}, s8[4194304]{0}) custom-call(%low, %w, %one, %one), TARGET, METADATA
  ROOT %first = f32[32,16]{1,0} get-tuple-element(%dot.1), index=0
}
"""


@pytest.mark.parametrize("name", ["gemm", "lt$matmul", "lt$matmul$f8"])
def test_what_the_compiler_handed_to_cublas_is_read(name):
    # As XLA's own tests print it: a workspace beside the result, scales behind the operands.
    text = CUBLAS.replace("TARGET", f'custom_call_target="__cublas${name}"')
    (found,) = products_in(named(text, "jit(f)/transpose(jvp(precis[mlp/up]))/dot_general"))
    assert found == RanProduct("mlp/up", "float8_e4m3fn", "float8_e5m2", "float32", True)


@pytest.mark.parametrize("path", ["", "mlp/@dot0", "a]b", 'a"c', "a~40~b", "é%2", "blocks/0.w"])
def test_any_path_is_read_back(path):
    (found,) = products_in(named(NEW, f"jit(f)/jvp({mark_of(path)})/dot_general"))
    assert found.path == path
