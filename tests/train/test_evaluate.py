"""Evaluation under a policy, against the mean by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from precis.train import make_evaluate
from precis.train.task import load_task


def test_is_the_mean_over_the_evaluation_batches():
    task = load_task("digits", "mlp")
    params, state = task.init(jax.random.key(0))
    got = make_evaluate(task, "f32")(params, state)
    rows = [task.loss(params, state, b, key=None, train=False) for b in task.eval_batches()]
    np.testing.assert_allclose(got["eval_loss"], np.mean([float(r[0]) for r in rows]), rtol=1e-6)
    assert task.metric[0] in got
    for name in rows[0][1][1]:
        want = np.mean([float(r[1][1][name]) for r in rows])
        np.testing.assert_allclose(got[f"eval_{name}"], want, rtol=1e-6)


def test_parameters_in_few_bits_can_be_judged_in_float32():
    task = load_task("digits", "mlp")
    params, state = task.init(jax.random.key(0))
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    widened = jax.tree.map(lambda p: p.astype(jnp.float32), low)
    assert make_evaluate(task, "f32")(low, state) == make_evaluate(task, "f32")(widened, state)
    assert make_evaluate(task, "bf16")(params, state) != make_evaluate(task, "f32")(params, state)
