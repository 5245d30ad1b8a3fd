"""The law over whole training steps: an emulated format equals its native twin, model by model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from precis.adapters import bind
from precis.train import Recipe, load_task, make_optimizer, make_step

# Emulated and native programs compile to different loops, in which XLA may sum a float32 row in
# another order; without its optimizer it does not.
OPTIONS = {"xla_allow_excess_precision": False, "xla_backend_optimization_level": 0}
SLOW = pytest.mark.nightly


TWINS = [("bf16", "e8m7"), ("f16", "e5m10")]


class Model(NamedTuple):
    """What `trained` reads of a task."""

    init: Callable[..., Any]
    batch: Callable[..., Any]
    loss: Callable[..., Any]


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
        h = linen.BatchNorm(use_running_average=not train)(linen.Dense(16)(x))
        h = linen.Dropout(0.1, deterministic=not train)(linen.gelu(h))
        h = linen.LayerNorm()(h + linen.MultiHeadDotProductAttention(num_heads=4)(h))
        return linen.Dense(5)(linen.RNN(linen.GRUCell(8))(h))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.head = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 5, rngs=rngs)
        self.mean, self.norm = nnx.BatchNorm(16, rngs=rngs), nnx.RMSNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        h = self.dropout(nnx.silu(self.mean(self.dense(x))))
        return self.head(self.norm(h + self.attention(h)))


class Equinox(eqx.Module):
    mlp: eqx.nn.MLP
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.mlp, self.norm = eqx.nn.MLP(8, 5, 16, 2, key=first), eqx.nn.LayerNorm(8)
        self.attention = eqx.nn.MultiheadAttention(2, 8, key=second)

    def __call__(self, x):
        h = jax.vmap(self.norm)(x)
        return jax.vmap(self.mlp)(x + self.attention(h, h, h))


def plain_step(params, h):
    """One of three layers, under remat and in a scan."""
    gate = jax.nn.softmax(h @ params["gate"])
    return h + jnp.tanh(h @ params["kernel"] + params["bias"]) * gate, None


def classified(init, apply):
    """A model with a loss on it; `apply` gives scores and the new state."""

    def batch(seed, number):
        keys = jax.random.split(jax.random.key(seed * 100 + number))
        x = jax.random.normal(keys[0], (4, 6, 8))
        return x, jax.random.randint(keys[1], (4, 6), 0, 5)

    def loss(params, state, rows, *, key, train):
        scores, state = apply(params, state, rows[0], key=key, train=train)
        log_p = jax.nn.log_softmax(scores)
        return -jnp.take_along_axis(log_p, rows[1][..., None], -1).mean(), (state, {})

    return Model(init, batch, loss)


def of_linen():
    module = Linen()
    params, state, apply = bind(module, jnp.ones((4, 6, 8)), key=jax.random.key(1), train="train")
    return classified(lambda _: (params, state), apply)


def of_nnx():
    params, state, apply = bind(Nnx(nnx.Rngs(0)))
    return classified(lambda _: (params, state), apply)


def of_equinox():
    arrays, static = eqx.partition(Equinox(jax.random.key(1)), eqx.is_array)

    def apply(params, state, x, **_):
        return jax.vmap(eqx.combine(params, static))(x), state

    return classified(lambda _: (arrays, ()), apply)


def of_plain():
    def init(key):
        gate, kernel = jax.random.normal(key, (2, 3, 8, 8)) / 3
        layers = {"gate": gate, "kernel": kernel, "bias": jnp.zeros((3, 8))}
        return {"layers": layers, "head": jax.random.normal(key, (8, 5))}, ()

    def apply(params, state, x, **_):
        h, _ = jax.lax.scan(
            lambda h, layer: jax.checkpoint(plain_step)(layer, h), x, params["layers"]
        )
        return h @ params["head"], state

    return classified(init, apply)


BUILT_IN = {
    "mlp": lambda: load_task("digits", "mlp"),
    "cnn": lambda: load_task("digits", "cnn", batch_size=8),
    "decoder": lambda: load_task("text", "decoder"),
}
LIBRARIES = {"linen": of_linen, "nnx": of_nnx, "equinox": of_equinox, "plain": of_plain}


def trained(task, policy, steps=2, *, jit=True):
    optimizer = make_optimizer(Recipe(learning_rate=1e-2), steps)
    step = make_step(task.loss, optimizer, policy, has_state=True, jit=False)
    update = jax.jit(step.update, compiler_options=OPTIONS) if jit else step.update
    state = step.init(*task.init(jax.random.key(0)))
    for number in range(steps):
        state, metrics = update(state, task.batch(0, number), jax.random.key(number))
    return state, metrics


def assert_same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("native", "emulated"), TWINS)
@pytest.mark.parametrize(
    ("name", "model"), [("digits", "mlp"), pytest.param("text", "decoder", marks=SLOW)]
)
def test_emulated_equals_native_through_compiled_steps(name, model, native, emulated):
    task = load_task(name, model)
    assert_same(*(trained(task, f"p=f32,c={c},o=f32") for c in (native, emulated)))


@SLOW
@pytest.mark.parametrize(("native", "emulated"), TWINS)
@pytest.mark.parametrize("name", [*BUILT_IN, *LIBRARIES])
def test_emulated_equals_native_through_steps_op_by_op(name, native, emulated):
    """Not jitted: on this the compiler has no say, whatever the model and the format.

    Compiled, XLA folds the widening of bf16 operands into a convolution that sums otherwise, and
    LLVM contracts some of float16's multiplications and additions.
    """
    task = BUILT_IN[name]() if name in BUILT_IN else LIBRARIES[name]()
    with jax.numpy_dtype_promotion("standard"):  # flax and equinox rely on it
        assert_same(*(trained(task, f"p=f32,c={c},o=f32", jit=False) for c in (native, emulated)))
