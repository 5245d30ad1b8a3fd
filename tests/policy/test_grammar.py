"""The grammar: round trips, defaults as in the design's table, agreement with jmp, errors."""

import jmp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precis.policy import KEYS, PRESETS, get_policy, read_policy

FLOATS = ["f32", "bf16", "f16", "tf32", "e5m3", "e8m7"]
KEPT = ["f32", "bf16", "f16", "e5m2@block32", "dynamic8@block256"]


def texts():
    formats = {key: st.sampled_from(FLOATS) for key in KEYS}
    formats |= dict.fromkeys("rmv", st.sampled_from(KEPT))
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


# The design's table.
EXPANDED = {
    "f32": "p=f32,c=f32,o=f32",
    "bf16": "p=bf16,c=bf16,o=bf16,m=bf16,v=bf16",
    "mixed_bf16": "p=f32,c=bf16,o=f32",
    "mixed_f16": "p=f32,c=f16,o=f32",
    "tf32": "p=f32,c=tf32,x=f32,o=f32",
    "fp8_hybrid": "p=f32,c=e4m3fn@tensor,g=e5m2@tensor,x=bf16,o=f32",
    "int8": "p=f32,c=int8,g=int8,x=bf16,o=f32",
    "int8_forward": "p=f32,c=int8,g=bf16,x=bf16,o=f32",
    "mxfp8": "p=f32,c=mxfp8_e4m3,g=mxfp8_e4m3,x=bf16,o=f32",
    "nvfp4": "p=f32,c=nvfp4,g=bf16,x=bf16,o=f32",
}


def test_cotangents_of_one_product_alone_are_in_the_text_where_they_differ():
    text = "p=f32,c=int8,g=int8,gw=bf16,x=bf16,o=f32"
    assert str(get_policy(text)) == str(get_policy(f"{text},gx=int8"))
    assert str(get_policy("c=int8,gx=int8,gw=int8")) == str(get_policy("c=int8"))
    assert "gw=bf16" in str(get_policy(text))
    assert "gx" not in str(get_policy(text))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_their_text(name):
    policy = get_policy(EXPANDED[name])
    assert get_policy(name) == policy
    given = dict(pair.split("=") for pair in EXPANDED[name].split(","))
    assert {role.key: role.format for role in policy.roles()} | given == {
        role.key: role.format for role in policy.roles()
    }
    assert get_policy(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("int8", "p=f32,c=int8,o=f32"),
        ("int4", "p=f32,c=int4,o=f32"),
        ("mxfp6_e2m3", "p=f32,c=e2m3@block32:e8m0,o=f32"),
        ("nvfp4(toward_zero)", "p=f32,c=e2m1(toward_zero)@block16:e4m3fn@tensor,o=f32"),
        ("e5m2", "p=e5m2,c=e5m2,o=e5m2"),
    ],
)
def test_a_bare_format(text, same):
    assert get_policy(text) == get_policy(same)


@pytest.mark.parametrize(
    "text",
    [
        "p=f32,c=mxfp8_e4m3(scale=rceil,toward_zero),g=e5m2@tensor,o=f32",
        "c=e4m3fn(overflow=saturate,subnormals=flush)@channel,k=nf4@block64",
        "c=f16(overflow=saturate)",
        "c=bf16,k=e4m3fn(stochastic,overflow=saturate)@tensor,g=int8(stochastic)",
        "nvfp4(stochastic)",
        "p=int8,c=bf16,o=f32",
        "p=nf4@block64,o=f32",
    ],
)
def test_options_with_commas_come_back(text):
    assert get_policy(str(get_policy(text))) == get_policy(text)


@pytest.mark.parametrize(
    ("text", "key", "format", "reason"),
    [
        ("c=bf16", "p", "f32", "f32"),
        ("p=bf16", "c", "bf16", "as p"),
        ("c=bf16", "k", "bf16", "as c"),
        ("c=bf16,k=e5m3", "c", "bf16", "given"),
        ("c=bf16", "x", "bf16", "as c"),
        ("c=e5m3", "x", "bf16", "bf16: c is scaled or has fewer than 16 bits"),
        ("c=int8", "x", "bf16", "bf16: c is scaled or has fewer than 16 bits"),
        ("c=f16(toward_zero)", "x", "f16", "as c"),
        ("c=mxfp4", "g", "mxfp4", "as c"),
        ("c=mxfp4", "s", "f32", "the widest of f32, p and c"),
        ("c=mxfp4", "w", "f32", "as p"),
        ("c=e8m7", "x", "e8m7", "as c"),
        ("c=bf16,x=f32", "o", "f32", "as x"),
        ("c=f16", "g", "f16", "as c"),
        ("p=int8", "c", "int8", "as p"),
        ("p=int8@tensor", "k", "int8@tensor", "as c"),
        ("p=int4", "c", "bf16", "bf16: p is scaled, and no int8"),
        ("p=nf4@block64", "w", "f32", "f32: p is scaled"),
        ("p=int8", "s", "f32", "the widest of f32, p and c"),
        ("c=int8,g=bf16", "gx", "bf16", "as g"),
        ("c=int8", "gw", "int8", "as g"),
        ("c=int8,gw=bf16", "gx", "int8", "as g"),
        ("c=int8,gw=bf16", "grad_for_weight", "bf16", "given"),
        ("p=bf16", "w", "bf16", "as p"),
        ("c=bf16", "w", "f32", "as p"),
        ("c=bf16", "s", "f32", "the widest of f32, p and c"),
        ("f64", "a", "f64", "the widest of f32, p and c"),
        ("bf16", "m", "bf16", "given"),
        ("c=bf16", "r", "f32", "the widest of f32, p and c"),
        ("c=bf16,reduce=int8@block256", "r", "int8@block256", "given"),
    ],
)
def test_defaults(text, key, format, reason):
    role = next(role for role in get_policy(text).roles() if key in (role.key, role.name))
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
    [
        *[("mixed_f16", True), ("c=bf16,g=e5m2", True), ("c=e5m3", True), ("mixed_bf16", False)],
        # What is scaled has the range that it needs.
        *[("fp8_hybrid", False), ("mxfp8", False), ("c=f16(overflow=saturate)", True)],
        *[("c=bf16,gx=e5m2", True), ("c=bf16,gw=f16", True)],
        # What both of its products have otherwise is used by neither.
        *[("c=bf16,g=f16,gx=bf16,gw=bf16", False), ("c=bf16,g=f16,gx=bf16", True)],
    ],
)
def test_loss_scaling_follows_the_exponent_bits_and_not_the_name(text, scales):
    assert get_policy(text).needs_loss_scaling is scales


@pytest.mark.parametrize(
    ("text", "chance"),
    [
        ("int8", False),
        ("g=int8(stochastic)", True),
        ("c=bf16,gw=int8(stochastic)", True),
        ("g=int8(stochastic),gx=int8,gw=int8", False),
        ("c=bf16,k=e5m2(stochastic)", True),
        ("c=f16(toward_zero)", False),
        ("nvfp4(stochastic)", True),
    ],
)
def test_who_is_stochastic(text, chance):
    assert get_policy(text).is_stochastic is chance
    assert read_policy(f"f32; head/**: {text}").is_stochastic is chance


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
        ("p=int8(stochastic)", "p=int8 with master=.stochastic."),
        ("p=uint8", "no negative values"),
        ("p=int8,c=f64", "p=int8: .* c=f64 is wider"),
        ("p=nf4", "a codebook wants a scale"),
        ("x=mxfp4", "x=mxfp4: a floating-point format is wanted"),
        ("c=nf4", "a codebook wants a scale, as in nf4@block64"),
        ("c=e8m0", "neither sign nor zero"),
        ("w=bf16(stochastic)", "w=bf16.*rounded to nearest; stochastic can be .* c, k, g"),
        ("x=e5m2(stochastic)", "rounded to nearest; stochastic can be the operands"),
        ("m=int8(stochastic)@block256", "m=int8.*rounded to nearest"),
        ("c=e8m0(stochastic)", "neither sign nor zero"),
        ("c=e5m2(stochastik)", "did you mean 'stochastic'"),
        ("c=int8@block0", "positive number of values"),
        ("mxfp9", "did you mean 'mxfp8'"),
        ("c=nf4(toward_zero)", "a codebook wants a scale"),
        ("c=uint8", "no negative values"),
        ("c=udynamic8@block64", "no negative values"),
        ("p=f64,c=int8", "p=f64 is wider"),
        ("m=e5m3", "its format must be a dtype"),
        ("r=e5m3", "r is sent as it is, so its format must be a dtype or have blocks"),
        ("r=int8", "sent in few bits, it wants blocks, as in int8@block256"),
        ("r=mxfp8_e4m3", "r=mxfp8_e4m3: blocks with float32 scales"),
        ("r=udynamic8@block256", "no negative values"),
        ("r=int8(stochastic)@block256", "rounded to nearest"),
        ("r=int8@blok256", "what shares a scale is"),
    ],
)
def test_bad_text_says_what_was_wanted(text, message):
    with pytest.raises(ValueError, match=message):
        get_policy(text)


def test_what_is_only_sent_is_not_emulated():
    assert not get_policy("mixed_bf16").is_emulated
    assert not get_policy("p=f32,c=bf16,o=f32,r=e4m3fn@block64,m=int8@block256").is_emulated


def test_only_text_and_policies():
    with pytest.raises(TypeError, match="got 32"):
        get_policy(32)
