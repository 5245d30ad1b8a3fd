"""What every task promises, and a plain training loop to see that it can be learned."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from precis.tree import leaves_with_paths


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), (_, y) in zip(leaves_with_paths(a), leaves_with_paths(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def differs(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any((np.asarray(x) != np.asarray(y)).any() for x, y in pairs)


def check_task(task, again):
    """Checks `task` against itself and against `again`, the same task loaded once more."""
    key = jax.random.key(1)
    params, state = task.init(key)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    same((params, state), task.init(key))
    assert differs(params, task.init(jax.random.key(2))[0])

    # Out of order, from another instance: a batch depends on seed and step alone.
    same(task.batch(0, 3), again.batch(0, 3))
    task.batch(5, 1)
    same(task.batch(0, 3), again.batch(0, 3))
    assert differs(task.batch(0, 3), task.batch(0, 4))
    assert differs(task.batch(0, 3), task.batch(1, 3))
    same(task.eval_batches(), again.eval_batches())
    shapes = [jax.tree.map(np.shape, batch) for batch in task.eval_batches()]
    assert all(shape == shapes[0] for shape in shapes)

    call = jax.jit(task.loss, static_argnames="train")
    loss, (after, metrics) = call(params, state, task.batch(0, 0), key=key, train=True)
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert all(value.shape == () for value in metrics.values())
    assert jax.tree.structure(after) == jax.tree.structure(state)
    _, (_, judged) = call(params, state, task.eval_batches()[0], key=None, train=False)

    name, direction = task.metric
    assert name in {"eval_loss", *(f"eval_{metric}" for metric in judged)}
    assert direction in ("min", "max")
    assert isinstance(task.unit, str)
    assert json.loads(json.dumps(task.facts, allow_nan=False)) == task.facts == again.facts


def train(task, *, steps, learning_rate):
    """The last training loss, and the mean metrics over the task's evaluation batches."""
    optimizer = optax.adam(learning_rate)
    params, state = task.init(jax.random.key(0))

    @jax.jit
    def step(params, state, opt_state, batch):
        (loss, (state, _)), grads = jax.value_and_grad(task.loss, has_aux=True)(
            params, state, batch, key=None, train=True
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, loss

    opt_state = optimizer.init(params)
    for i in range(steps):
        params, state, opt_state, loss = step(params, state, opt_state, task.batch(0, i))
    judge = jax.jit(lambda batch: task.loss(params, state, batch, key=None, train=False)[1][1])
    rows = [judge(batch) for batch in task.eval_batches()]
    return float(loss), {name: np.mean([row[name] for row in rows]) for name in rows[0]}
