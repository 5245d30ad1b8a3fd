"""Policies side by side with jmp's on the same texts and trees, and where jmp's are wrong."""

import jax
import jax.numpy as jnp
import jmp as theirs
import numpy as np
import pytest

import precis
from precis.compat import jmp as ours
from tests.compat.jmp.same import bits

F16, BF16, F32 = jnp.float16, jnp.bfloat16, jnp.float32


TEXTS = [
    "float16",
    "half",
    "full",
    "bf16",
    "c=f16",
    "p=f16,c=f16",
    "p=f16,c=bf16",
    "params=float32,compute=float16,output=float32",
    "c=half,o=full",
    "o=f16",
    "p=bf16",
    "p=f64,c=f32",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_jmps(text):
    mine, peer = ours.get_policy(text), theirs.get_policy(text)
    for name in ("param_dtype", "compute_dtype", "output_dtype"):
        assert getattr(mine, name) == getattr(peer, name)
        assert isinstance(getattr(mine, name), type(F16))
    assert str(mine) == str(peer)
    assert ours.get_policy(str(mine)) == mine
    assert theirs.get_policy(str(mine)) == peer
    # And the house's own grammar reads what it writes.
    policy = precis.get_policy(str(mine))
    assert policy.param.dtype == mine.param_dtype
    assert policy.output.dtype == mine.output_dtype


SPECIAL = np.float32(
    [0, -0.0, 1, 1 / 3, 65504, 65520, 1e30, -1e-8, 2**-24, 2**-25, np.inf, -np.inf, np.nan]
)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("text", ["p=f32,c=f16,o=bf16", "p=bf16,c=f32,o=f16"])
def test_casts_are_jmps(text):
    rng = np.random.default_rng(0)
    tree = {
        "w": jnp.asarray(np.concatenate([SPECIAL, np.float32(rng.standard_normal(500))])),
        "numpy": SPECIAL.astype(np.float16),
        "half": [jnp.asarray(SPECIAL, F16), jnp.asarray(SPECIAL, BF16)],
        "step": jnp.int32(7),
        "mask": np.array([True, False]),
        "number": 0.1,
        "name": "layer",
        "nothing": None,
        "scalar": np.float32(0.1),
    }
    mine, peer = ours.get_policy(text), theirs.get_policy(text)
    for verb in ("cast_to_param", "cast_to_compute", "cast_to_output"):
        assert bits(getattr(mine, verb)(tree)) == bits(getattr(peer, verb)(tree))
    assert bits(ours.cast_to_half(tree)) == bits(theirs.cast_to_half(tree))
    assert bits(ours.cast_to_full(tree)) == bits(theirs.cast_to_full(tree))


def test_a_float8_policy_casts_storage():
    mine, peer = (jmp.Policy(F32, jnp.float8_e4m3fn, F32) for jmp in (ours, theirs))
    x = jnp.float32([0.3, -7.7, 448, 2**-9])
    assert bits(mine.cast_to_compute(x)) == bits(peer.cast_to_compute(x))


@pytest.mark.world
def test_a_cast_is_differentiated_and_compiled():
    policy = ours.get_policy("c=f16")
    value, grad = jax.jit(jax.value_and_grad(lambda x: policy.cast_to_compute(x)[0] * 3.0))(
        jnp.float32([0.1, 2.0])
    )
    assert (value.dtype, grad.dtype) == (F16, F32)
    assert grad.tolist() == [3.0, 0.0]


def test_equal_policies_have_equal_hashes():
    spelled = [("float16",) * 3, (np.dtype(np.float16),) * 3, (np.float16, F16, "f2")]
    mine = [ours.Policy(*dtypes) for dtypes in spelled]
    assert len(set(mine)) == 1
    assert str(mine[1]) == "p=f16,c=f16,o=f16"
    peers = [theirs.Policy(*dtypes) for dtypes in spelled[1:]]
    assert peers[0] == peers[1]
    assert hash(peers[0]) != hash(peers[1])
    with pytest.raises(KeyError):
        str(peers[0])


def test_a_dtype_can_be_called_and_replaced():
    policy = ours.get_policy("c=f16").with_output_dtype(np.dtype(np.float32))
    assert policy.output_dtype(0.5).dtype == F32
    assert policy == ours.Policy(F32, F16, F32)
    assert ours.half_dtype() is theirs.half_dtype()


def test_spaces_and_other_dtypes_are_read():
    assert ours.get_policy("c=half, o=full") == ours.Policy(F32, F16, F32)
    assert ours.get_policy("mixed_bf16") == ours.Policy(F32, BF16, F32)
    assert ours.get_policy("bf16") == ours.get_policy("bfloat16")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c=float17", "no number format is called 'float17'; did you mean"),
        ("d=f16", "no role is called 'd'"),
        ("c=f16,c=bf16", "given twice"),
        ("c=f16,g=bf16", "jmp has params, compute and output, and no grad; precis.get_policy"),
        ("c=tf32,o=f32", "tf32 is no dtype to compute in; precis.get_policy"),
        ("c=e4m3fn,o=f32", "e4m3fn is no dtype to compute in"),
        ("int8", "an integer needs a scale"),
        ("f32; head/**: c=f32", "rules by path"),
    ],
)
def test_bad_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        ours.get_policy(text)


def test_an_integer_dtype_is_refused():
    with pytest.raises(ValueError, match="compute_dtype: a floating-point dtype is wanted"):
        ours.Policy(F32, jnp.int8, F32)
