"""`loss_scaled` step for step against torch.amp.GradScaler, as fixtures/ recorded it."""

import json
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.optim import (
    apply_update,
    loss_scale_like,
    loss_scaled,
    scale_loss,
    scale_of,
    state_of,
)

RECORD = json.loads((Path(__file__).parent / "fixtures" / "grad_scaler.json").read_text())
CASES = RECORD["cases"]
LENGTH = max(len(case["slopes"]) for case in CASES)


@pytest.fixture(scope="module")
def run():
    """A compiled run of `LENGTH` steps from a loss scale: one program for all cases."""
    inner = optax.sgd(RECORD["learning_rate"])

    @jax.jit
    def run(scale, slopes):
        optimizer = loss_scaled(inner, scale)
        param = jnp.float32(0.0)

        def step(carry, slope):
            param, state = carry
            before = scale_of(state)
            grad = jax.grad(lambda p: scale_loss(p * slope, before))(param)
            applied = apply_update(optimizer, grad, state, param)
            finite = state_of(applied.state).last_finite
            return (applied.params, applied.state), (before, applied.params, finite)

        (_, state), seen = jax.lax.scan(step, (param, optimizer.init(param)), slopes)
        return state, seen

    return run


def settings(case):
    scale = loss_scale_like("torch")
    return scale._replace(
        value=jnp.float32(case["init_scale"]),
        growth_factor=jnp.float32(case["growth_factor"]),
        backoff_factor=jnp.float32(case["backoff_factor"]),
        growth_interval=jnp.int32(case["growth_interval"]),
    )


@pytest.mark.parametrize("number", range(len(CASES)))
def test_scales_steps_and_parameters_are_torchs(run, number):
    case = CASES[number]
    steps = len(case["slopes"])
    slopes = np.zeros(LENGTH, np.float32)
    slopes[:steps] = [float(slope) for slope in case["slopes"]]
    _, (scales, params, finite) = run(settings(case), slopes)
    # torch ends where float32 does, at 2^127; here the reciprocal is kept normal too.
    wanted = np.minimum(np.float32(case["scales"]), np.float32(2.0**126))
    np.testing.assert_array_equal(scales[: steps + 1], wanted[: len(scales)])
    np.testing.assert_array_equal(params[:steps], np.float32(case["params"]))
    assert np.flatnonzero(finite[:steps]).tolist() == case["taken"]


def test_the_record_has_what_it_is_for():
    defaults = CASES[0]
    ours = loss_scale_like("torch")
    assert [float(x) for x in ours[:4]] == [
        defaults[name]
        for name in ("init_scale", "growth_factor", "backoff_factor", "growth_interval")
    ]
    grown = sum(b > a for case in CASES for a, b in pairwise(case["scales"]))
    skipped = sum(len(case["slopes"]) - len(case["taken"]) for case in CASES)
    assert grown > 50
    assert skipped > 50
    assert {"nan", "inf"} <= {slope for case in CASES for slope in case["slopes"]}


def test_a_schedule_that_grows_a_step_late_would_be_noticed(run):
    case = CASES[1]
    late = settings(case)._replace(growth_interval=jnp.int32(case["growth_interval"] + 1))
    slopes = np.zeros(LENGTH, np.float32)
    slopes[: len(case["slopes"])] = [float(slope) for slope in case["slopes"]]
    _, (scales, _, _) = run(late, slopes)
    assert scales.tolist() != case["scales"][:-1]
