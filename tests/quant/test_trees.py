"""Trees of linen and nnx, streams, and what they take in memory."""

import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import precis
from precis.adapters import bind
from precis.policy import cast_to_param
from precis.quant import QTensor, dequantize, quantize, quantize_array, quantize_stream
from precis.tree import nbytes


@pytest.fixture(autouse=True)
def standard_promotion(strict_promotion):
    with jax.numpy_dtype_promotion("standard"):  # flax relies on it
        yield


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def leaves(tree):
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, QTensor))


def quantized(tree):
    return [x for x in leaves(tree) if isinstance(x, QTensor)]


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        return nn.Dense(5, name="head")(x.reshape(x.shape[0], -1))


@pytest.mark.world
def test_linen_variables():
    shapes = jax.eval_shape(Net().init, jax.random.key(0), jnp.ones((1, 4, 4, 2)))
    variables = jax.tree.map(lambda s: draw(0, *s.shape), shapes)
    q = quantize(variables, [("**", "int8"), ("head/kernel", "int4")])
    assert len(quantized(q)) == 2
    assert q["batch_stats"]["BatchNorm_0"]["mean"].dtype == jnp.float32
    conv = q["params"]["conv"]["kernel"]
    # One scale for each feature of the output, over the window and the features of the input.
    assert (conv.shape, conv.scale.shape) == ((3, 3, 2, 4), (1, 1, 1, 4))
    assert str(q["params"]["head"]["kernel"].format) == "int4@block64"
    assert jax.tree.structure(dequantize(q)) == jax.tree.structure(variables)


@pytest.mark.world
def test_nnx_states_and_pure_dicts():
    module = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    bound = bind(module)
    plain = quantize(bound.params, "int8")
    state = quantize(nnx.state(module), [("kernel", "int8")])
    assert len(quantized(plain)) == len(quantized(state)) == 1
    assert jax.tree.structure(dequantize(state)) == jax.tree.structure(nnx.state(module))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_integers_keys_and_what_is_quantized_already_stay():
    tree = {"w": draw(0, 4, 4), "n": jnp.int32(3), "key": jax.random.key(0)}
    once = quantize(tree, "int8")
    assert once["n"] is tree["n"]
    assert once["key"] is tree["key"]
    assert quantize(once | {"v": draw(1, 4, 4)}, "int4@channel")["w"] is once["w"]


def test_all_of_it_quantized_already_is_no_error():
    tree = quantize({"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}, "int8")
    assert quantize(tree, "int8")["kernel"] is tree["kernel"]
    assert dict(quantize_stream(tree.items(), "int8"))["kernel"] is tree["kernel"]
    with pytest.raises(ValueError, match="nothing: there are bias, kernel; nearest: 'kernel'"):
        quantize(tree, [("kernels", "int8")])


def test_leaf_by_leaf():
    tree = {str(i): {"kernel": draw(i, 33, 7)} for i in range(5)}
    first = quantize(tree, "int8")
    for name, node in first.items():
        one = quantize_array(tree[name]["kernel"], "int8")
        np.testing.assert_array_equal(node["kernel"].values, one.values)


def test_under_jit_and_as_shapes_alone():
    tree = {"a": {"kernel": draw(0, 16, 8)}, "b": {"kernel": draw(1, 16, 8)}}
    rules = [("**", "int8"), ("b/**", "nf4")]
    eager = quantize(tree, rules)
    jitted = jax.jit(lambda tree: quantize(tree, rules))(tree)
    shapes = jax.eval_shape(lambda tree: quantize(tree, rules), tree)
    assert jax.tree.structure(eager) == jax.tree.structure(jitted) == jax.tree.structure(shapes)
    for a, b, s in zip(*map(jax.tree.leaves, (eager, jitted, shapes)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a.shape, a.dtype) == (s.shape, s.dtype)
    assert nbytes(shapes) == nbytes(eager) == 16 * 8 + 8 * 4 + 8 * 8 + 8 * 4


def test_it_leaves_by_the_front_door():
    q = precis.quantize({"kernel": draw(0, 4, 4)}, "int8")
    assert isinstance(q["kernel"], precis.QTensor)
    assert precis.dequantize(q)["kernel"].shape == (4, 4)
    untouched = draw(0, 3)
    assert precis.dequantize({"b": untouched})["b"] is untouched


def test_a_stream_frees_each_float():
    alive = []

    def parameters():
        for i in range(4):
            # Of those before, none is left when the next one is read.
            assert [ref() for ref in alive] == [None] * i
            x = draw(i, 64, 64)
            alive.append(weakref.ref(x))
            yield f"{i}/kernel", x
            del x

    found = dict(quantize_stream(parameters(), "int8"))
    assert list(found) == [f"{i}/kernel" for i in range(4)]
    whole = quantize({f"{i}": {"kernel": draw(i, 64, 64)} for i in range(4)}, "int8")
    for i in range(4):
        np.testing.assert_array_equal(found[f"{i}/kernel"].values, whole[f"{i}"]["kernel"].values)


def test_a_streams_rules_are_checked_when_it_ends():
    pairs = [("a/kernel", draw(0, 4, 4)), ("a/bias", draw(1, 4))]
    stream = quantize_stream(pairs, [("**", "int8"), ("b/*", "f32")])
    assert [path for path, _ in (next(stream), next(stream))] == ["a/kernel", "a/bias"]
    with pytest.raises(ValueError, match=r"'b/\*' matches nothing"):
        next(stream)


def test_a_large_leaf_is_quantized_without_a_copy():
    shape = jax.ShapeDtypeStruct((4096, 4096), jnp.float32)
    for fmt, limit in (("int8", 1 / 20), ("nf4", 1 / 4)):
        compiled = jax.jit(lambda x, fmt=fmt: quantize_array(x, fmt)).lower(shape).compile()
        analysis = compiled.memory_analysis()
        # Of the float leaf, where a copy of it would be all of it; nf4 was three copies.
        assert analysis.temp_size_in_bytes <= shape.size * 4 * limit


@pytest.mark.parametrize("fmt", ["int8", "e4m3fn@channel", "mxfp8_e4m3", "nvfp4"])
def test_a_policys_casts_leave_codes_alone(fmt):
    tree = {"a": jnp.ones((64, 8)), "b": jnp.ones((64, 8))}
    mixed = quantize(tree, [("a", fmt)])
    cast = cast_to_param("p=bf16", mixed)
    assert cast["b"].dtype == jnp.bfloat16
    for left, right in zip(jax.tree.leaves(cast["a"]), jax.tree.leaves(mixed["a"]), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
