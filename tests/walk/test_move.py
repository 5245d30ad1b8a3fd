"""What is summed was rounded, wherever it comes from: native formats beside their twins.

XLA's CPU (from jax 0.10 on) sums what was there before a convert to bfloat16 if it sees both.
A twin rounds on its bits, so both agree only if every rounding before a sum is done.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.walk import autocast

from .laws import EXACT, assert_same, compiled

KEYS = jax.random.split(jax.random.key(0), 3)
X, Y = (jax.random.normal(key, (64, 256)) for key in KEYS[:2])
B = 1 + 0.3 * jax.random.normal(KEYS[2], (256,))


@jax.custom_jvp
def swish(x):
    """Opaque to the walker: it runs as it is written."""
    return x * jax.nn.sigmoid(x)


@swish.defjvp
def _(primals, tangents):
    (x,), (dot,) = primals, tangents
    s = jax.nn.sigmoid(x)
    return x * s, dot * (s + x * s * (1 - s))


def once(fn, x):
    return lax.scan(lambda h, _: (fn(h), None), x, None, length=1)[0]


def rows_of(b):
    return jnp.broadcast_to(b * b[::-1], X.shape)


VALUES = {
    "an opaque rule": lambda b, x, y: swish(x * y).sum(0),
    "an island through a cond": lambda b, x, y: lax.cond(True, jnp.exp, lambda x: x, x).sum(0),
    "an island through a scan": lambda b, x, y: once(lambda h: jnp.exp(h) * 1.1, x * y).sum(0),
    "windows": lambda b, x, y: lax.reduce_window(x * y, 0.0, lax.add, (1, 2), (1, 2), "VALID").sum(
        0
    ),
}
GRADIENTS = {
    "an island": lambda b, x, y: (jnp.exp(rows_of(b)) * y).sum(),
    "an opaque rule": lambda b, x, y: (swish(rows_of(b)) * y).sum(),
}


def both(run, options=EXACT):
    """`run` of a cast under bfloat16 and under its twin, compiled."""
    return [
        compiled(lambda b, x, y, c=c: run(f"c={c},o=f32", b, x, y), options)(B, X, Y)
        for c in ("bf16", "e8m7")
    ]


@pytest.mark.world
@pytest.mark.parametrize("options", [EXACT, pytest.param({}, marks=pytest.mark.nightly)], ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_what_leaves_is_rounded_before_it_is_summed(name, options):
    fn = lambda _, *args: VALUES[name](*args)  # noqa: E731
    native, emulated = both(lambda policy, *args: autocast(fn, policy)((), *args), options)
    assert_same(native, emulated)


@pytest.mark.world
@pytest.mark.parametrize("options", [EXACT, pytest.param({}, marks=pytest.mark.nightly)], ids=str)
@pytest.mark.parametrize("name", GRADIENTS)
def test_a_cotangent_is_rounded_before_a_broadcast_by_itself_sums_it(name, options):
    fn = lambda _, *args: GRADIENTS[name](*args)  # noqa: E731
    grad = lambda policy, *args: jax.grad(autocast(fn, policy), 1)((), *args)  # noqa: E731
    native, emulated = both(grad, options)
    assert_same(native, emulated)


@pytest.mark.world
def test_the_gradient_of_a_parameter_in_bfloat16_is_rounded_before_its_norm_is_taken():
    """Straight from an island; clipping by a global norm sums its squares."""

    def norm_of(low, x):
        grad = jax.grad(autocast(lambda w: jnp.exp(w * w).mean(), "bf16"))(x.astype(jnp.bfloat16))
        return jnp.sum(low(grad.astype(jnp.float32)) ** 2)

    rounded = compiled(lambda x: norm_of(lambda g: lax.reduce_precision(g, 8, 7), x))(X)
    # The squares of 8-bit numbers are exact: what is left is the order of the sum.
    np.testing.assert_allclose(compiled(lambda x: norm_of(lambda g: g, x))(X), rounded, rtol=1e-5)


FORWARD = {
    "a sum": lambda b, x, y: (jnp.tanh(x * y) * b).sum(0),
    "a softmax": lambda b, x, y: jax.nn.softmax(x * y + b) * y,
    "a mean of squares": lambda b, x, y: jnp.mean((x * b + y) ** 2, 0),
    "products": lambda b, x, y: jnp.tanh(x @ y.T / 16) @ (x * b),
}


@pytest.mark.world
@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_keeps_the_law_for_values_and_tangents(name):
    fn = lambda _, *args: FORWARD[name](*args)  # noqa: E731

    def push(policy, *args):
        call = lambda *args: autocast(fn, policy, forward_mode=True)((), *args)  # noqa: E731
        return jax.jvp(call, args, tuple(arg[..., ::-1] for arg in args))

    native, emulated = both(push)
    assert_same(native, emulated)


def test_tangents_are_rounded_in_forward_mode():
    """As they are in bfloat16: else both sides above could be unrounded."""
    fn = autocast(lambda _, x: x * 1.0, "c=e8m7,o=e8m7", forward_mode=True)
    third = jnp.full(4, 1 / 3)
    _, tangent = jax.jvp(lambda x: fn((), x), (third,), (third,))
    np.testing.assert_array_equal(tangent, third.astype(jnp.bfloat16).astype(jnp.float32))
