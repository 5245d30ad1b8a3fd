"""What is asked of everything that trains, and where: a table of steps, each from a carry and an
input to the next carry. `test_contract.py` takes from it, and runs it on eight devices.

Factors are powers of two, so that no compiler's multiply-add rounds otherwise than two operations,
and Adam's corrections are 1, by which dividing is the same as multiplying.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import precis
from precis.compat import jmp
from precis.optim import (
    accumulate,
    apply_update,
    clipped_first,
    dynamic_loss_scale,
    loss_scaled,
    master_weights,
    quantized_state,
    scale_of,
    stored_moments,
    varying,
)
from precis.train import make_step
from precis.tree import map_floats

STEPS, RATE = 4, 2.0**-7
CHAIN = optax.chain(
    optax.scale_by_adam(0.5, 0.5, eps=2.0**-20),
    optax.add_decayed_weights(0.25),
    optax.scale_by_learning_rate(RATE),
)
# From the 25th step on, 1 - 0.5^t is 1.
ADAMW = optax.GradientTransformation(
    lambda params: optax.tree.set(CHAIN.init(params), count=jnp.int32(64)), CHAIN.update
)
SCALE = dynamic_loss_scale(8.0, growth_interval=2)


class Training(NamedTuple):
    """Something that trains.

    Attributes:
        first: The carry before the first step.
        step: From a carry and one input to the next carry.
        inputs: From a seed to `STEPS` inputs, stacked.
        apart: How far from each other two of its numbers may be, where sums have no order.
    """

    first: Callable[[], Any]
    step: Callable[[Any, Any], Any]
    inputs: Callable[[int], Any]
    apart: float = 0.0


def entries(seed: int, *leading: int) -> dict[str, jax.Array]:
    """A leaf of blocks, the last of them short, and one that is too small for them."""
    w, b = jax.random.split(jax.random.key(seed))
    return {
        "w": jax.random.normal(w, (*leading, 3, 100)),
        "b": jax.random.normal(b, (*leading, 5)),
    }


def gradients(seed: int, *, spoiled: bool) -> Any:
    """Of each step; with a NaN among those of the second step of odd seeds."""
    grads = entries(100 + seed, STEPS)
    bad = jnp.where(spoiled and seed % 2 == 1, jnp.nan, grads["w"][1, 2, 7])
    return grads | {"w": grads["w"].at[1, 2, 7].set(bad)}


def by(optimizer: optax.GradientTransformation, dtype: Any, skips: bool) -> Training:
    """Training with `optimizer`, on gradients times its loss scale if it has one."""

    def first() -> Any:
        params = map_floats(lambda x: x.astype(dtype), entries(0))
        return params, optimizer.init(params)

    def step(carry: Any, grads: Any) -> Any:
        params, state = carry
        if skips:
            grads = jax.tree.map(lambda g: g * scale_of(state), grads)
        return tuple(apply_update(optimizer, grads, state, params)[:2])

    return Training(first, step, partial(gradients, spoiled=skips))


def by_jmp() -> Training:
    """A loop as jmp's users write it."""
    sgd = optax.sgd(RATE, momentum=0.5)

    def first() -> Any:
        scale = jmp.DynamicLossScale(jnp.float32(8), period=2, min_loss_scale=jnp.float32(2))
        return entries(0), sgd.init(entries(0)), scale

    def step(carry: Any, grads: Any) -> Any:
        params, state, scale = carry
        grads = scale.unscale(scale.scale(grads))
        finite = jmp.all_finite(grads)
        updates, after = sgd.update(grads, state, params)
        new = (optax.apply_updates(params, updates), after)
        return *jmp.select_tree(finite, new, (params, state)), scale.adjust(finite)

    return Training(first, step, partial(gradients, spoiled=True))


def by_make_step() -> Training:
    """Frozen leaves, remat, two micro-batches and a loss scale in one step.

    All numbers are eighths, of which sums have no order.
    """

    def loss(params: Any, batch: Any) -> jax.Array:
        layer = precis.remat(lambda w, x: x * w + params["b"])
        return jnp.sum(layer(params["w"], batch))

    made = make_step(
        loss,
        optax.sgd(RATE, momentum=0.5),
        "mixed_f16",
        loss_scale=SCALE,
        accumulate=2,
        trainable=["w"],
        jit=False,
    )

    def inputs(seed: int) -> Any:
        x = np.random.default_rng(seed).integers(-8, 8, (STEPS, 4, 6)) / 8
        if seed % 2 == 1:
            x[1, 3, 2] = np.inf
        return jnp.asarray(x, jnp.float32)

    return Training(
        lambda: made.init({"w": jnp.ones(6), "b": jnp.zeros(6)}),
        lambda carry, batch: made.update(carry, batch, None)[0],
        inputs,
    )


def by_chain() -> Training:
    """As optax's documentation has it: two calls, of a chain."""
    optimizer = optax.chain(loss_scaled(blocks("int8", "e5m2"), SCALE), optax.scale(0.5))

    def step(carry: Any, grads: Any) -> Any:
        params, state = carry
        scaled = jax.tree.map(lambda g: g * scale_of(state), grads)
        updates, state = optimizer.update(scaled, state, params)
        return optax.apply_updates(params, updates), state

    return by(optimizer, jnp.float32, True)._replace(step=step)


def by_clipping() -> Training:
    """A norm, of 305 entries, is a sum in any order: 308 roundings with its root and the quotients.

    They move an update, a part of a gradient of norm 1 and of what is left of those before, and
    each sum with a parameter less than 8 is rounded.
    """
    optimizer = clipped_first(optax.sgd(RATE, momentum=0.5), 1.0)
    return by(optimizer, jnp.float32, False)._replace(apart=STEPS * (2 * 308 + 8) * 2.0**-24)


def blocks(m: str, v: str) -> optax.GradientTransformation:
    return quantized_state(ADAMW, m, v, block=32, min_size=100)


# An optimizer, the dtype of its parameters, and whether it skips steps.
OPTIMIZERS: dict[str, tuple[optax.GradientTransformation, Any, bool]] = {
    "loss_scaled": (loss_scaled(ADAMW, SCALE), jnp.float32, True),
    "nearest": (master_weights(ADAMW, "bf16"), jnp.bfloat16, False),
    "stochastic": (master_weights(ADAMW, "bf16", "stochastic"), jnp.bfloat16, False),
    "kahan": (master_weights(ADAMW, "bf16", "kahan"), jnp.bfloat16, False),
    "accumulate": (accumulate(loss_scaled(ADAMW, SCALE), 2), jnp.float32, True),
    "dtypes": (stored_moments(ADAMW, "bf16", "bf16"), jnp.float32, False),
    "dynamic8": (blocks("dynamic8", "dynamic8"), jnp.float32, False),
    "int8": (blocks("int8", "e5m2"), jnp.float32, False),
    "together": (
        loss_scaled(
            master_weights(accumulate(blocks("e4m3fn", "dynamic8"), 2), "bf16", "stochastic"), SCALE
        ),
        jnp.bfloat16,
        True,
    ),
}
TABLE: dict[str, Callable[[], Training]] = {
    **{name: partial(by, *how) for name, how in OPTIMIZERS.items()},
    "chained": by_chain,
    "clipped_first": by_clipping,
    "jmp": by_jmp,
    "make_step": by_make_step,
}


def one_by_one(training: Training, step: Callable[[Any, Any], Any], seed: int) -> Any:
    """The oracle: the last carry of a compiled `step` in a Python loop."""
    carry, inputs = training.first(), training.inputs(seed)
    for count in range(STEPS):
        carry = step(carry, row(inputs, count))
    return carry


def scanned(training: Training, inputs: Any, axis: str = "") -> Any:
    """The same by `lax.scan`, on each replica of an axis by itself."""
    body = lambda carry, x: (training.step(carry, x), None)  # noqa: E731
    first = training.first()
    return lax.scan(body, varying(first, axis) if axis else first, inputs)[0]


def stacked(training: Training, count: int) -> Any:
    """Inputs of `count` seeds."""
    return jax.tree.map(lambda *x: jnp.stack(x), *map(training.inputs, range(count)))


def bits(tree: Any) -> list[Any]:
    """Each leaf as its bytes, so that -0.0 is not 0.0; of NaN only that it is one."""

    def raw(x: Any) -> Any:
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        x = np.asarray(jax.random.key_data(x) if is_key else x)
        is_nan = x != x
        return str(x.dtype), x.shape, np.where(is_nan, 0, x).tobytes(), is_nan.tobytes()

    return [raw(x) for x in jax.tree.leaves(tree)]


def row(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def check(training: Training, got: Any, want: Any) -> None:
    """That `got` is `want`, bit for bit if it can be."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    if not training.apart:
        assert bits(got) == bits(want)
        return
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=training.apart)


def on_eight_devices(name: str) -> None:
    """Each device trains by itself, and ends where one alone does."""
    training = TABLE[name]()

    def own(inputs: Any) -> Any:
        return jax.tree.map(lambda x: x[None], scanned(training, row(inputs, 0), "data"))

    mesh = Mesh(np.array(jax.devices()), "data")
    sharded = jax.shard_map(own, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    got = jax.jit(sharded)(stacked(training, 8))
    step = jax.jit(training.step)
    for seed in range(8):
        check(training, row(got, seed), one_by_one(training, step, seed))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        on_eight_devices(name)
        print(name, flush=True)
