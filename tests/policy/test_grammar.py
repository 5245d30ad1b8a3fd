"""The grammar: round trips, defaults as in the design's table, agreement with jmp, errors."""

import jmp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precis.policy import KEYS, PRESETS, get_policy

FLOATS = ["f32", "bf16", "f16", "tf32", "e5m3", "e8m7"]
NATIVE = ["f32", "bf16", "f16"]


def texts():
    formats = {key: st.sampled_from(NATIVE if key in "rmv" else FLOATS) for key in KEYS}
    keys = st.lists(st.sampled_from(list(KEYS)), min_size=1, unique=True)
    return keys.flatmap(lambda ks: st.tuples(*(formats[k].map(f"{k}={{}}".format) for k in ks)))


@given(texts())
def test_text_gives_the_policy_back(parts):
    policy = get_policy(",".join(parts))
    assert get_policy(str(policy)) == policy
    assert get_policy(policy) is policy


@given(texts())
def test_order_of_roles_does_not_matter(parts):
    assert get_policy(",".join(parts)) == get_policy(",".join(reversed(parts)))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_their_text(name):
    assert str(get_policy(name)) == PRESETS[name]
    assert get_policy(name) == get_policy(PRESETS[name])


@pytest.mark.parametrize(
    ("text", "key", "format", "reason"),
    [
        ("c=bf16", "p", "f32", "f32"),
        ("p=bf16", "c", "bf16", "as p"),
        ("c=bf16", "k", "bf16", "as c"),
        ("c=bf16,k=e5m3", "c", "bf16", "given"),
        ("c=bf16", "x", "bf16", "as c"),
        ("c=e5m3", "x", "bf16", "bf16: c has fewer than 16 bits"),
        ("c=e8m7", "x", "e8m7", "as c"),
        ("c=bf16,x=f32", "o", "f32", "as x"),
        ("c=f16", "g", "f16", "as c"),
        ("p=bf16", "w", "bf16", "as p"),
        ("c=bf16", "w", "f32", "as p"),
        ("c=bf16", "s", "f32", "the widest of f32, p and c"),
        ("f64", "a", "f64", "the widest of f32, p and c"),
        ("bf16", "m", "bf16", "given"),
    ],
)
def test_defaults(text, key, format, reason):
    role = next(role for role in get_policy(text).roles() if role.key == key)
    assert (role.format, role.reason) == (format, reason)


@pytest.mark.parametrize(
    "text",
    [
        "p=f32,c=bf16,o=f32",
        "params=float32,compute=float16,output=float32",
        "params=f32,compute=bf16,output=f16",
        "p=bfloat16,c=f32,o=bf16",
        "c=f16",
        "float32",
        "bf16",
        "bfloat16",
        "f16",
    ],
)
def test_means_what_it_means_in_jmp(text):
    theirs, ours = jmp.get_policy(text), get_policy(text)
    assert ours.param.dtype == theirs.param_dtype
    assert ours.compute.dtype == theirs.compute_dtype
    assert ours.output.dtype == theirs.output_dtype


@pytest.mark.parametrize(
    ("text", "scales"),
    [("mixed_f16", True), ("c=bf16,g=e5m2", True), ("c=e5m3", True), ("mixed_bf16", False)],
)
def test_loss_scaling_follows_the_exponent_bits_and_not_the_name(text, scales):
    assert get_policy(text).needs_loss_scaling is scales


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("half", "float16 on some devices and bfloat16 on others"),
        ("p=f32,c=half,o=f32", "float16 on some devices"),
        ("mixed_fp16", "did you mean 'mixed_f16'"),
        ("q=f32", "no role is called 'q'"),
        ("comput=f32", "did you mean 'compute'"),
        ("c=bf16,c=f32", "given twice"),
        ("c=bf16,f32", "no role=format pair"),
        ("c=int8", "an integer needs a scale"),
        ("m=e5m3", "its format must be a dtype"),
    ],
)
def test_bad_text_says_what_was_wanted(text, message):
    with pytest.raises(ValueError, match=message):
        get_policy(text)


def test_only_text_and_policies():
    with pytest.raises(TypeError, match="got 32"):
        get_policy(32)
