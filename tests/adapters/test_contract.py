"""What `bind` promises, the same for both libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.adapters import unbind
from precis.tree import leaves_with_paths
from tests.adapters.twins import LIBRARIES, X, forward

pytestmark = pytest.mark.world
KEY = jax.random.key(7)

# Values here are of order 1 and pass two products of at most 4 terms and one BatchNorm: a few
# tens of roundings of 2^-24.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=LIBRARIES)
def library(request):
    return LIBRARIES[request.param]


def copy(tree):
    return jax.tree.map(np.array, tree)


def bits(tree):
    return [(path, np.asarray(leaf).tobytes()) for path, leaf in leaves_with_paths(tree)]


def is_plain(tree):
    if isinstance(tree, dict):
        return all(isinstance(name, str) and is_plain(part) for name, part in tree.items())
    return isinstance(tree, jax.Array)


def test_trees_are_plain_dicts_with_the_module_s_names(library):
    params, state, _ = library.bind(library.make())
    assert is_plain(params)
    assert is_plain(state)
    assert [path for path, _ in leaves_with_paths(params)] == [
        f"{layer}/{name}"
        for layer, names in {
            "first": ("bias", "kernel"),
            "last": ("bias", "kernel"),
            "norm": ("bias", "scale"),
        }.items()
        for name in names
    ]
    assert sorted(library.statistics(state)) == ["mean", "var"]
    assert len(jax.tree.leaves(state)) == 2, "generators are no state"


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_apply_computes_the_network(library, train, compiled):
    params, state, apply = library.bind(library.make())
    state = jax.tree.map(lambda leaf: leaf + 0.5, state)
    call = lambda p, s, x: apply(p, s, x, train=train)  # noqa: E731
    out, after = (jax.jit(call) if compiled else call)(params, state, X)
    wanted, statistics = forward(params, library.statistics(state), X, train=train)
    np.testing.assert_allclose(out, wanted, **CLOSE)
    for name, value in statistics.items():
        np.testing.assert_allclose(library.statistics(after)[name], value, **CLOSE)


def test_apply_is_pure(library):
    module = library.make(rate=0.5)
    params, state, apply = library.bind(module)
    before = copy((params, state))
    first = apply(params, state, X, key=KEY, train=True)
    second = apply(params, state, X, key=KEY, train=True)
    assert bits(first) == bits(second)
    assert bits((params, state)) == bits(before)
    assert bits(library.bind(module)[:2]) == bits(before), "the module has changed"


def test_gradient_is_that_of_the_network(library):
    params, state, apply = library.bind(library.make())
    loss = lambda p: jnp.sum(apply(p, state, X, train=True)[0] ** 2)  # noqa: E731
    grads = jax.jit(jax.grad(loss))(params)
    oracle = lambda p: np.sum(  # noqa: E731
        forward(p, library.statistics(state), X, train=True)[0] ** 2
    )
    rng = np.random.default_rng(1)
    way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    step = lambda t: jax.tree.map(lambda p, w: np.float64(p) + t * w, params, way)  # noqa: E731
    # Central differences in float64: the error is about h^2 = 1e-10.
    wanted = (oracle(step(1e-5)) - oracle(step(-1e-5))) / 2e-5
    products = jax.tree.map(lambda g, w: np.sum(np.float64(g) * w), grads, way)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), wanted, rtol=1e-4)


def test_dropout_follows_the_key_and_only_in_training(library):
    params, state, apply = library.bind(library.make(rate=0.5))
    train = lambda key: np.asarray(apply(params, state, X, key=key, train=True)[0])  # noqa: E731
    np.testing.assert_array_equal(train(KEY), train(jax.random.key(7)))
    assert (train(KEY) != train(jax.random.key(8))).any()
    outs = [apply(params, state, X, key=key)[0] for key in (None, KEY, jax.random.key(8))]
    wanted, _ = forward(params, library.statistics(state), X, train=False)
    for out in outs:
        np.testing.assert_allclose(out, wanted, **CLOSE)


def test_layers_draw_apart(library):
    params, state, apply = library.bind(library.make(rate=0.5))
    # All that reaches `last` is 1 from `norm`'s bias, doubled or dropped by each of two dropouts.
    ones = jax.tree.map(jnp.zeros_like, params)
    ones["norm"]["bias"] = jnp.ones(4)
    ones["last"]["kernel"] = jnp.eye(4, 2)
    out, _ = apply(ones, state, np.zeros((64, 3), np.float32), key=KEY, train=True)
    assert set(np.unique(out)) == {0.0, 2.0, 4.0}, "2 comes up only if the two masks differ"


def test_old_style_keys_are_taken(library):
    params, state, apply = library.bind(library.make(rate=0.5))
    out, _ = apply(params, state, X, key=jax.random.PRNGKey(7), train=True)
    assert np.isfinite(out).all()


def test_drawing_without_a_key_says_so(library):
    params, state, apply = library.bind(library.make(rate=0.5))
    with pytest.raises(ValueError, match=r"got no key: pass apply\(\.\.\., key="):
        apply(params, state, X, train=True)


def test_state_is_carried_by_a_loop(library):
    params, state, apply = library.bind(library.make(rate=0.5))

    def one(state, key):
        out, state = apply(params, state, X, key=key, train=True)
        return state, out

    keys = jax.random.split(KEY, 3)
    looped, outs = jax.jit(lambda s: jax.lax.scan(one, s, keys))(state)
    for key, out in zip(keys, outs, strict=True):
        state, wanted = one(state, key)
        np.testing.assert_allclose(out, wanted, **CLOSE)
    for a, b in zip(jax.tree.leaves(looped), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def test_keys_and_parameters_can_be_batched(library):
    params, state, apply = library.bind(library.make(rate=0.5))
    call = lambda p, k: apply(p, state, X, key=k, train=True)[0]  # noqa: E731
    keys = jax.random.split(KEY, 2)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    outs = jax.vmap(call)(many, keys)
    for i in range(2):
        alone = call(jax.tree.map(lambda leaf, i=i: leaf[i], many), keys[i])
        np.testing.assert_allclose(outs[i], alone, **CLOSE)


def test_nothing_leaks_out_of_a_trace(library):
    module = library.make(rate=0.5)
    params, state, apply = library.bind(module)
    loss = lambda p, s, k: jnp.sum(apply(p, s, X, key=k, train=True)[0])  # noqa: E731
    with jax.checking_leaks():
        jax.jit(jax.grad(loss))(params, state, KEY)
    assert is_plain(library.bind(module).params)


def test_unbind_gives_a_module_that_computes_the_same(library):
    module = library.make(rate=0.5)
    bound = library.bind(module)
    params = jax.tree.map(lambda leaf: leaf + 1, bound.params)
    _, state = bound.apply(params, bound.state, X, key=KEY, train=True)
    trained = bound._replace(params=params, state=state)
    wanted, _ = trained.apply(params, state, X)
    np.testing.assert_array_equal(library.evaluate(unbind(trained), X), wanted)
    # A new module each time: neither the first nor what is bound feels what happens to another.
    np.testing.assert_array_equal(library.evaluate(unbind(trained), X), wanted)
    assert bits(library.bind(module)[:2]) == bits(bound[:2])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes_are_kept(library, dtype):
    bound = library.bind(library.make(param_dtype=jnp.dtype(dtype)))
    assert bound.params["first"]["kernel"].dtype == dtype
    low = jax.tree.map(lambda leaf: leaf.astype(dtype), bound.params)
    train = lambda p, x: bound.apply(p, bound.state, x, train=True)  # noqa: E731
    _, after = jax.eval_shape(train, low, X.astype(dtype))
    assert [leaf.dtype for leaf in jax.tree.leaves(after)] == [jnp.float32] * 2
    wanted, _ = bound.apply(low, bound.state, X)
    np.testing.assert_array_equal(library.evaluate(unbind(bound._replace(params=low)), X), wanted)
    loss = lambda p: jnp.sum(bound.apply(p, bound.state, X)[0])  # noqa: E731
    grads = jax.eval_shape(jax.grad(loss), low)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}


def test_shapes_suffice(library):
    params, state, apply = library.bind(library.make())
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)  # noqa: E731
    out, after = jax.eval_shape(apply, *jax.tree.map(shape, (params, state)), X)
    assert out.shape == (6, 2)
    assert jax.tree.structure(after) == jax.tree.structure(state)
