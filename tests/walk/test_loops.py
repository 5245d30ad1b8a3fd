"""while and fori loops under a policy. What scans do is in test_rules.py and test_autocast.py."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.formats import round_to
from precis.policy import read_policy
from precis.walk import audit, autocast
from precis.walk.autocast import trace
from precis.walk.program import While
from tests.draws import normal

from .laws import UNOPTIMIZED, assert_same, compiled
from .models import decode, decode_init

PARAMS = decode_init(jax.random.key(0))
TOKEN = jnp.int32(5)


@pytest.mark.world
def test_emulated_formats_equal_native_ones_through_a_decoder():
    results = [
        compiled(autocast(decode, f"c={c},o=f32"), UNOPTIMIZED)(PARAMS, TOKEN)
        for c in ("bf16", "e8m7")
    ]
    assert_same(*results)
    assert int(results[0][1]) > 2  # it does decode something


def test_under_f32_nothing_changes_and_nothing_is_left_behind():
    def run(fn):
        return compiled(fn, UNOPTIMIZED)(PARAMS, TOKEN)

    want = run(decode)
    assert_same(run(autocast(decode, "f32")), want)
    low = run(autocast(decode, "mixed_bf16"))
    assert_same(run(decode), want)
    assert_same(run(autocast(decode, "mixed_bf16")), low)
    assert low[3] != want[3]


def power(w, x, n):
    """A stream through `w`, up to a norm, and the sum of what it was."""

    def body(carry):
        i, x, total = carry
        y = jnp.tanh(x @ w)
        return i + 1, y, total + y

    start = 0, x, jnp.zeros_like(x)
    return lax.while_loop(lambda c: (c[0] < n) & (c[1][0, 0] < 0.9), body, start)[1:]


def test_equals_hand_written_casts():
    low = jnp.bfloat16

    def by_hand(w, x, n):
        def body(carry):
            i, x, total = carry
            y = lax.dot(x, w.astype(low), preferred_element_type=jnp.float32)
            y = jnp.tanh(y.astype(low))
            return i + 1, y, total + y.astype(jnp.float32)

        start = 0, x.astype(low), jnp.zeros_like(x)
        seen = lambda c: (c[0] < n) & (c[1][0, 0].astype(jnp.float32) < np.float32(0.9))  # noqa: E731
        _, x, total = lax.while_loop(seen, body, start)
        return x.astype(jnp.float32), total.astype(low).astype(jnp.float32)

    w, x = normal(1, 8, 8), normal(2, 8, 8)
    got = compiled(autocast(power, "p=f32,c=bf16,o=f32"))(w, x, 5)
    want = compiled(by_hand)(w, x, 5)
    assert_same(got[0], want[0])
    # The sum leaves in o, of which nothing is lost on the way.
    assert_same(got[1].astype(low), want[1].astype(low))


def test_a_stream_is_the_policys_and_a_sum_is_sensitive():
    shape = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    program = trace(power, (shape, shape, 5), {}, read_policy("mixed_bf16")).program
    (step,) = (step for step in program.steps if isinstance(step.action, While))
    assert [str(program.values[slot].format) for slot in step.outputs] == ["None", "bf16", "f32"]


def test_a_fori_loop_over_an_unknown_number():
    def total(w, xs, n):
        return lax.fori_loop(0, n, lambda i, c: c + xs[i % 3], jnp.float32(0))

    assert autocast(total, "bf16")((), jnp.ones(3), jnp.int32(2000)) == 2000


def test_the_condition_sees_what_it_needs_of_its_own():
    def fn(w, x, most):
        bound = jnp.exp(most)  # an island, ends at the door
        grow = lambda c: c * 2 + x  # noqa: E731
        return lax.while_loop(lambda c: c.max() < bound, grow, x @ w)

    args = jnp.eye(3), jnp.ones((3, 3)), jnp.float32(3.0)
    assert_same(autocast(fn, "c=bf16,o=f32")(*args), fn(*args))


def test_vmap_over_the_number_of_trips():
    w, x = normal(1, 8, 8), normal(2, 8, 8)
    low = autocast(power, "c=bf16,o=f32")
    counts = jnp.arange(3)
    got = jax.vmap(low, (None, None, 0))(w, x, counts)
    want = [low(w, x, n) for n in counts]
    assert_same(got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *want))


def test_the_audit_counts_one_trip_and_says_so():
    report = audit(decode, PARAMS, TOKEN, policy="mixed_bf16")
    assert [site.site.path for site in report.sites] == ["step", "head"]
    assert report.flops == 2 * 32 * 32 + 2 * 32 * 64
    assert (
        "while at top level: its number of trips is not known, and counted as one" in report.notes
    )


def test_statistics_leave_a_scan_as_they_were_computed():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.BatchNorm(use_running_average=False)(x), None

    stacked = nn.scan(
        Layer, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=2
    )()
    x = round_to(10 + 0.1 * jax.random.normal(jax.random.key(0), (32, 8)), "bf16")
    with jax.numpy_dtype_promotion("standard"):  # flax relies on it
        variables = stacked.init(jax.random.key(1), x, None)
        run = lambda v, x: stacked.apply(v, x, None, mutable="batch_stats")  # noqa: E731
        got = autocast(run, "c=bf16,o=f32")(variables, x)[1]
        want = run(variables, x)[1]
    # Of the first layer: the second one's input differs. bfloat16 would be off by 0.2%.
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)  # noqa: E731
    for a, b in zip(jax.tree.leaves(first(got)), jax.tree.leaves(first(want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
