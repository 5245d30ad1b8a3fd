"""nnx as people write it: the module itself goes in, changes, and comes out changed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import precis
from precis.adapters.nnx import autocast
from tests.draws import normal

pytestmark = pytest.mark.world

X = normal(0, 16, 8)
Y = jnp.asarray(np.arange(16) % 3)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.body = nnx.Linear(8, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.features(x))

    def features(self, x):
        return self.drop(nnx.relu(self.norm(self.body(x))))


def loss(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


def leaves(model):
    return {jax.tree_util.keystr(p): np.asarray(jax.random.key_data(v) if jnp.issubdtype(
        v.dtype, jax.dtypes.prng_key) else v) for p, v in
        jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model)))}  # fmt: skip


def step_of(fn):
    @nnx.jit
    def step(model, optimizer, x, y):
        value, grads = nnx.value_and_grad(fn)(model, x, y)
        optimizer.update(model, grads)
        return value

    return step


def trained(fn, steps=3):
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    step = step_of(fn)
    return model, [float(step(model, optimizer, X, Y)) for _ in range(steps)]


def test_under_f32_training_is_what_it_was():
    ours, losses = trained(autocast(loss, "f32"))
    plain, expected = trained(loss)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert leaves(ours).keys() == leaves(plain).keys()
    for name, value in leaves(plain).items():
        np.testing.assert_allclose(leaves(ours)[name], value, rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("policy", ["int8; head/**: c=f32", "c=e5m7,o=f32"])
def test_it_learns_under_a_policy(policy):
    _, losses = trained(autocast(loss, policy), steps=30)
    assert losses[-1] < 0.7 * losses[0]


def test_statistics_and_counts_move_as_without():
    ours, plain = Net(nnx.Rngs(1)), Net(nnx.Rngs(1))
    autocast(loss, "mixed_bf16")(ours, X, Y)
    loss(plain, X, Y)
    mine, theirs = leaves(ours), leaves(plain)
    moved = {
        name for name, v in leaves(Net(nnx.Rngs(1))).items() if not np.array_equal(v, theirs[name])
    }
    assert len(moved) >= 3  # mean, variance, and how often dropout drew
    for name in mine:
        assert mine[name].dtype == theirs[name].dtype
        np.testing.assert_allclose(mine[name], theirs[name], rtol=0.02, atol=0.01, err_msg=name)


def test_other_methods_and_several_modules():
    def distance(models, x):
        student, teacher = models
        return jnp.mean((student.features(x) - teacher.features(x)) ** 2)

    pair = Net(nnx.Rngs(0)), Net(nnx.Rngs(1))
    for model in pair:
        model.eval()
    got = nnx.jit(autocast(distance, "mixed_bf16"))(pair, X)
    np.testing.assert_allclose(got, distance(pair, X), rtol=0.05)


def test_stochastic_roles_draw_from_the_key():
    linear = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    run = lambda key: autocast(lambda m, x: m(x), "c=e4m3(stochastic),o=f32", key=key)(linear, X)  # noqa: E731
    first, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    with pytest.raises(ValueError, match="wants a random key"):
        run(None)


def test_the_numbers_are_those_of_the_policy():
    linear = nnx.Linear(8, 4, use_bias=False, rngs=nnx.Rngs(0))
    got = autocast(lambda m, x: m(x), "mixed_bf16")(linear, X)
    low = lambda a: a.astype(jnp.bfloat16)  # noqa: E731
    want = jax.lax.dot(low(X), low(linear.kernel[...]), preferred_element_type=jnp.float32)
    np.testing.assert_array_equal(got, low(want).astype(jnp.float32))


class Sows(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        self.sow(nnx.Intermediate, "seen", x)
        return self.inner(x)


def test_what_is_sown_is_there_afterwards():
    model = Sows(nnx.Rngs(0))
    autocast(lambda m, x: m(x), "mixed_bf16")(model, X)
    (seen,) = jax.tree.leaves(nnx.pop(model, nnx.Intermediate))
    np.testing.assert_array_equal(seen, X)


def test_clear_errors():
    def changes(model, x):
        model.kernel = nnx.Param(model.kernel * 2)
        return model(x)

    linear = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"changes the parameter .*kernel"):
        autocast(changes, "mixed_bf16")(linear, X)
    with pytest.raises(
        TypeError, match=r"first argument is an nnx module, got dict; .*precis\.autocast"
    ):
        autocast(changes, "mixed_bf16")({"kernel": X}, X)
    with pytest.raises(ValueError, match="matches nothing: there are bias, kernel"):
        autocast(lambda m, x: m(x), "f32; hed: c=bf16")(linear, X)


def test_linen_with_a_train_state():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.relu(nn.Dense(16)(x)))

    model = Linen()
    state = TrainState.create(
        apply_fn=model.apply, params=model.init(jax.random.key(0), X), tx=optax.adam(1e-2)
    )

    def loss(params, x, y):
        logits = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(state, x, y):
        value, grads = jax.value_and_grad(precis.autocast(loss, "mixed_bf16"))(state.params, x, y)
        return state.apply_gradients(grads=grads), value

    losses = []
    for _ in range(30):
        state, value = step(state, X, Y)
        losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]
