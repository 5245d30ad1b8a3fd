"""Everything that trains, in every context: where it must end as step by step, bit for bit.

Under jit it is what the tests of each file show; here is that a scan, a stack of optimizers, eight
devices, a checkpoint and a chain change nothing.
"""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from precis.compat import jmp
from precis.optim import clip_by_norm, master_weights, quantized_state
from precis.sweep.store import checkpoints
from tests.optim import contract
from tests.optim.contract import (
    OPTIMIZERS,
    STEPS,
    TABLE,
    bits,
    check,
    one_by_one,
    row,
    scanned,
    stacked,
)

PROGRAM = Path(contract.__file__)
ROWS = 3


def of(names, *quick):
    return [
        pytest.param(name, marks=() if name in quick else pytest.mark.nightly) for name in names
    ]


@cache
def made(name):
    training = TABLE[name]()
    step = jax.jit(training.step)
    return training, step, cache(lambda seed: one_by_one(training, step, seed))


@pytest.mark.parametrize("name", of(TABLE, "together", "jmp", "make_step"))
def test_a_stack_of_them_under_vmap_and_scan(name):
    training, _, alone = made(name)
    got = jax.jit(jax.vmap(lambda x: scanned(training, x)))(stacked(training, ROWS))
    for seed in range(ROWS):
        check(training, row(got, seed), alone(seed))


@pytest.mark.nightly
@pytest.mark.parametrize("name", TABLE)
def test_in_a_scan_alone(name):
    training, _, alone = made(name)
    check(training, jax.jit(lambda x: scanned(training, x))(training.inputs(1)), alone(1))


def test_on_eight_devices(on_eight_devices):
    on_eight_devices(PROGRAM, "together")


@pytest.mark.nightly
def test_each_on_eight_devices(on_eight_devices):
    on_eight_devices(PROGRAM, *TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_it_goes_on_from_a_checkpoint(tmp_path, name):
    training, step, alone = made(name)
    inputs = training.inputs(0)
    carry = step(training.first(), row(inputs, 0))
    with checkpoints.opened(tmp_path) as manager:
        checkpoints.save(manager, 1, carry)
        restored = checkpoints.restore(manager, jax.eval_shape(training.first)).state
    assert jax.tree.structure(restored) == jax.tree.structure(carry)
    assert bits(restored) == bits(carry)
    assert not any(getattr(x, "weak_type", False) for x in jax.tree.leaves(restored))
    for count in range(1, STEPS):
        restored = step(restored, row(inputs, count))
    assert bits(restored) == bits(alone(0))


@pytest.mark.parametrize(
    ("saved", "wanted", "message"),
    [
        (
            quantized_state(optax.adam(1e-3), "int8", "e5m2"),
            quantized_state(optax.adam(1e-3), "dynamic8", "e5m2"),
            r"v/0/mu was saved as .*int8@block256.*dynamic8@block",
        ),
        (
            quantized_state(optax.adam(1e-3)),
            quantized_state(optax.adam(1e-3), block=128),
            r"dynamic8@block256.*dynamic8@block128",
        ),
        (
            quantized_state(optax.adam(1e-3)),
            quantized_state(optax.adam(1e-3), keep=["w"], min_size=0),
            "is to be restored",
        ),
        (
            master_weights(optax.sgd(1e-3), "bf16", "kahan"),
            master_weights(optax.sgd(1e-3), "bf16"),
            "kept/v was saved as .*kahan.*nearest",
        ),
    ],
)
def test_another_state_is_not_restored_into(tmp_path, saved, wanted, message):
    params = {"w": jnp.zeros(4096), "v": jnp.zeros(4096)}
    with checkpoints.opened(tmp_path) as manager:
        checkpoints.save(manager, 1, saved.init(params))
        with pytest.raises(ValueError, match=message):
            checkpoints.restore(manager, wanted.init(params))


def test_another_schedule_of_jmps_is_not_restored_into(tmp_path):
    with checkpoints.opened(tmp_path) as manager:
        checkpoints.save(manager, 1, {"scale": jmp.DynamicLossScale(8.0, period=100)})
        with pytest.raises(ValueError, match=r"scale was saved as .*100.*2000"):
            checkpoints.restore(manager, {"scale": jmp.DynamicLossScale(8.0)})


@pytest.mark.parametrize("name", of(OPTIMIZERS, "nearest", "accumulate"))
def test_in_a_chain_it_is_what_the_parts_make_of_it(name):
    optimizer, dtype, _ = OPTIMIZERS[name]
    parts = [clip_by_norm(0.5), optimizer, optax.scale(0.5)]
    chain = optax.chain(*parts)
    params = jax.tree.map(lambda x: x.astype(dtype), contract.entries(0))
    state, own = chain.init(params), [part.init(params) for part in parts]
    with jax.disable_jit():
        for seed in (1, 2):
            want = contract.entries(seed)
            updates, state = chain.update(want, state, params)
            for place, part in enumerate(parts):
                want, own[place] = part.update(want, own[place], params)
            assert bits((updates, state)) == bits((want, tuple(own)))
