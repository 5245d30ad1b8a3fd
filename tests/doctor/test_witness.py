"""The witness holds where roundings are kept, and sees it where they are not."""

import pytest

from precis.doctor import compiled_roundings

EXACT = {"xla_allow_excess_precision": False}


@pytest.mark.world
@pytest.mark.parametrize("policy", ["mixed_bf16", "mixed_f16"])
def test_holds_without_excess_precision(policy):
    witness = compiled_roundings(policy, EXACT)
    assert witness.holds
    assert witness.compared == 24_704


@pytest.mark.parametrize("policy", ["f32", "c=e5m7,x=e5m7,o=f32", "tf32"])
def test_nothing_can_be_dropped_where_no_dtype_has_16_bits(policy):
    assert compiled_roundings(policy, EXACT).compared == 0


def test_sees_a_rounding_that_is_left_out(monkeypatch):
    from precis.doctor import witness

    # A twin with a bit more stands for a compiler that keeps a bit too many.
    monkeypatch.setattr(witness, "_emulated", lambda fmt: witness.parse_float("e8m8"))
    assert not compiled_roundings("mixed_bf16", EXACT).holds
