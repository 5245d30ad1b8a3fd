"""The law on the built-in models: an emulated format equals its native twin, step for step."""

import jax
import numpy as np
import pytest

from precis.train import Recipe, load_task, make_optimizer, make_step, value_and_grad

# Emulated and native programs compile to different loops, in which XLA may sum a float32 row in
# another order; without its optimizer it does not.
OPTIONS = {"xla_allow_excess_precision": False, "xla_backend_optimization_level": 0}
SLOW = pytest.mark.nightly


TWINS = [("bf16", "e8m7"), ("f16", "e5m10")]


def trained(task, policy, steps=2):
    optimizer = make_optimizer(Recipe(learning_rate=1e-2), steps)
    step = make_step(task.loss, optimizer, policy, has_state=True, jit=False)
    update = jax.jit(step.update, compiler_options=OPTIONS)
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


@pytest.mark.parametrize(("native", "emulated"), [TWINS[1], pytest.param(*TWINS[0], marks=SLOW)])
def test_emulated_equals_native_through_convolutions_op_by_op(native, emulated):
    # Compiled, XLA folds the widening of bf16 operands into a convolution that sums otherwise.
    task = load_task("digits", "cnn", batch_size=8)
    params, state = task.init(jax.random.key(0))
    batch, key = task.batch(0, 0), jax.random.key(1)
    results = [
        value_and_grad(task.loss, f"p=f32,c={c},o=f32", has_aux=True, state_argnums=1)(
            params, state, batch, key=key, train=True
        )
        for c in (native, emulated)
    ]
    assert_same(*results)
