import jax
import numpy as np
import optax
import pytest

from precis.train.fit import first_divergence, fit, init_key
from precis.train.step import make_step
from precis.train.task import load_task

STEPS = 6


@pytest.fixture(scope="module")
def task():
    return load_task("digits", "mlp", batch_size=8)


@pytest.fixture(scope="module")
def step(task):
    # The bits that it rounds by are drawn anew in each step, and must be the same ones again.
    policy = "p=f32,c=bf16,g=e8m3(stochastic),o=f32"
    return make_step(task.loss, optax.adam(1e-2), policy, has_state=True)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_going_on_is_not_having_stopped(task, step):
    start = step.init(*task.init(init_key(3)))
    whole = list(fit(step, task, start, seed=3, steps=STEPS))
    assert [taken.step for taken in whole] == list(range(1, STEPS + 1))
    for k in (1, 4):
        rest = list(fit(step, task, whole[k - 1].state, seed=3, steps=STEPS))
        assert [taken.step for taken in rest] == list(range(k + 1, STEPS + 1))
        assert bits(rest[-1].state) == bits(whole[-1].state)
        assert bits([t.metrics for t in rest]) == bits([t.metrics for t in whole[k:]])


def test_the_seed_decides(task, step):
    start = step.init(*task.init(init_key(3)))
    ends = [list(fit(step, task, start, seed=seed, steps=2))[-1].state for seed in (3, 3, 4)]
    assert bits(ends[0]) == bits(ends[1])
    assert bits(ends[0]) != bits(ends[2])


def test_nothing_is_left_to_do(task, step):
    start = step.init(*task.init(init_key(0)))
    assert list(fit(step, task, start, seed=0, steps=0)) == []


@pytest.mark.parametrize(
    ("losses", "skips", "before", "expected"),
    [
        ([1.0, 2.0], None, 0, None),
        ([1.0, float("nan"), float("nan")], None, 0, 1),
        ([float("-inf")], None, 0, 0),
        # A loss scaler skipped the step: not finite, yet no harm done.
        ([1.0, float("inf"), 1.0], [0, 1, 1], 0, None),
        ([float("inf")], [3], 2, None),
        # The count stood still, so the step was taken.
        ([1.0, float("nan")], [2, 2], 2, 1),
        ([float("nan"), float("nan")], [1, 1], 0, 1),
    ],
)
def test_where_it_diverged(losses, skips, before, expected):
    rows = [{"loss": loss} for loss in losses]
    if skips is not None:
        rows = [row | {"skipped": skip} for row, skip in zip(rows, skips, strict=True)]
    assert first_divergence(rows, skipped=before) == expected
