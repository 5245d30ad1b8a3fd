"""Scaled formats train the built-in models, linen's and nnx's alike."""

import jax
import numpy as np
import pytest

from precis.train import Recipe, load_task, make_optimizer, make_step

PRESETS = ["fp8_hybrid", "int8", "int8_forward", "mxfp8", "nvfp4"]
OPTIONS = {"xla_allow_excess_precision": False}


def losses(task, policy, steps):
    optimizer = make_optimizer(Recipe(learning_rate=3e-3), steps)
    step = make_step(task.loss, optimizer, policy, has_state=True, jit=False)
    update = jax.jit(step.update, compiler_options=OPTIONS)
    state, seen = step.init(*task.init(jax.random.key(0))), []
    for number in range(steps):
        state, metrics = update(state, task.batch(0, number), jax.random.key(number))
        seen.append(float(metrics["loss"]))
    return np.array(seen)


@pytest.mark.parametrize(
    "preset",
    [pytest.param(p, marks=[] if p in ("int8", "nvfp4") else pytest.mark.nightly) for p in PRESETS],
)
def test_an_mlp_in_linen_learns(preset):
    seen = losses(load_task("digits", "mlp"), preset, 30)
    assert seen[-5:].mean() < 0.6 * seen[0]


@pytest.mark.parametrize(
    "preset", [pytest.param(p, marks=[] if p == "mxfp8" else pytest.mark.nightly) for p in PRESETS]
)
def test_a_cnn_with_batch_norm_in_nnx_learns(preset):
    seen = losses(load_task("digits", "cnn"), preset, 30)
    assert seen[-5:].mean() < 0.8 * seen[0]


@pytest.mark.nightly
@pytest.mark.parametrize("preset", PRESETS)
def test_a_scanned_decoder_learns(preset):
    seen = losses(load_task("text", "decoder"), preset, 20)
    assert seen[-3:].mean() < 0.95 * seen[0]
