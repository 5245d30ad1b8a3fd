"""Training on many devices: what travels, and that it is the training of one device."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from precis.train import make_step, value_and_grad

PROGRAM = Path(__file__).parent / "spread.py"
QUICK = ["f32", "bf16", "int8", "replicas", "axes", "skipping", "keys"]


@pytest.mark.world
def test_gradients_travel_once_and_in_r_alone_and_lead_where_one_device_goes(on_eight_devices):
    on_eight_devices(PROGRAM, *QUICK)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["accumulated", "unchecked", "int4", "narrow", "codes"])
def test_they_do_under_other_policies_and_without_the_check(on_eight_devices, name):
    on_eight_devices(PROGRAM, name)


def on_one_device(fn, *args):
    mesh = Mesh(np.array(jax.devices()[:1]), "data")
    specs = {"in_specs": (P(), *[P("data")] * (len(args) - 1)), "out_specs": P()}
    return jax.make_jaxpr(jax.shard_map(fn, mesh=mesh, **specs))(*args)


def square(w, x):
    return jnp.mean((x * w) ** 2)


def test_value_and_grad_alone():
    gradient = value_and_grad(square, "c=f32,r=bf16", axis_name="data")
    program = on_one_device(gradient, jnp.ones(3), jnp.ones((4, 3))).pretty_print()
    # One of bits; of sums, the loss's alone.
    assert (program.count(" all_to_all["), program.count(" psum")) == (1, 1)


def summed(program):
    """What is summed over devices, however the version of jax calls that."""
    return re.findall(r":(\w+)\[[^=]*= psum", program.pretty_print())


@pytest.mark.world
def test_gradients_of_narrow_parameters_are_summed_in_float32():
    arrays = jnp.ones(3, jnp.bfloat16), jnp.ones((4, 3), jnp.bfloat16)
    # The gradient of shape [3], and the loss.
    ours = value_and_grad(square, "bf16", axis_name="data")
    assert summed(on_one_device(ours, *arrays)) == ["f32", "f32"]
    # By itself JAX sums them in their dtype.
    assert summed(on_one_device(jax.grad(square), *arrays)) == ["bf16"]


def test_a_loss_that_is_averaged_already_is_refused():
    gradient = value_and_grad(lambda w, x: lax.pmean(square(w, x), "data"), "f32", axis_name="data")
    with pytest.raises(ValueError, match=r"averaged twice: return each device's own loss"):
        on_one_device(gradient, jnp.ones(3), jnp.ones((4, 3)))


def test_jit_goes_around_shard_map():
    with pytest.raises(ValueError, match="axis_name='data' wants jit=False"):
        make_step(square, optax.sgd(0.1), "f32", axis_name="data")


@pytest.mark.parametrize(
    ("r", "is_spread", "scaled"),
    [("f16", True, True), ("f16", False, False), ("bf16", True, False)],
)
def test_what_could_underflow_on_the_wire_is_scaled(r, is_spread, scaled):
    options = {"axis_name": "data", "jit": False} if is_spread else {}
    step = make_step(square, optax.sgd(0.1), f"c=bf16,r={r}", **options)
    assert step.is_scaled is scaled
