"""cond, switch and platform_dependent under a policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.policy import read_policy
from precis.walk import audit, autocast
from precis.walk.autocast import trace
from precis.walk.program import Cond, Run
from tests.draws import normal

from .laws import UNOPTIMIZED, assert_same, compiled

PARAMS = {"a": normal(0, 8, 8, scale=1 / 3), "b": normal(1, 8, 8, scale=1 / 3), "c": normal(2, 8)}
X = normal(3, 4, 8)


def routed(p, x, n):
    """Layers that choose: by an integer, and by what they are given."""
    x = lax.switch(n, [lambda x: x @ p["a"], lambda x: jnp.tanh(x @ p["b"]) * x, lambda x: -x], x)
    x = lax.cond(x.sum() > 0, lambda x: jax.nn.softmax(x @ p["a"]), lambda x: x + p["c"], x)
    return (x**2 * x).sum()


@pytest.mark.world
@pytest.mark.parametrize("n", [pytest.param(0, marks=pytest.mark.nightly), 1])
def test_emulated_formats_equal_native_ones_through_branches(n):
    results = [
        compiled(jax.value_and_grad(autocast(routed, f"c={c},o=f32"), (0, 1)), UNOPTIMIZED)(
            PARAMS, X, n
        )
        for c in ("bf16", "e8m7")
    ]
    assert_same(*results)


def test_under_f32_nothing_changes_and_nothing_is_left_behind():
    def run(fn):
        return compiled(jax.value_and_grad(fn), UNOPTIMIZED)(PARAMS, X, 1)

    want = run(routed)
    assert_same(run(autocast(routed, "f32")), want)
    low = run(autocast(routed, "mixed_bf16"))
    assert_same(run(routed), want)
    assert_same(run(autocast(routed, "mixed_bf16")), low)
    assert low[0] != want[0]


def test_equals_hand_written_casts():
    def by_hand(p, x, n):
        low = jnp.bfloat16
        dot = lambda x, w: lax.dot(x, w.astype(low), preferred_element_type=jnp.float32)  # noqa: E731
        branches = [
            lambda x: dot(x, p["a"]).astype(low) + p["c"].astype(low),
            lambda x: jnp.tanh(dot(x, p["b"]).astype(low)),
        ]
        return lax.switch(n, branches, x.astype(low)).astype(jnp.float32)

    def plain(p, x, n):
        return lax.switch(n, [lambda x: x @ p["a"] + p["c"], lambda x: jnp.tanh(x @ p["b"])], x)

    got = autocast(plain, "p=f32,c=bf16,o=f32")
    for n in (0, 1):
        assert_same(compiled(got)(PARAMS, X, n), compiled(by_hand)(PARAMS, X, n))


def test_vmap_over_the_choice():
    def fn(w, x, n):
        return lax.switch(n, [lambda x: x @ w, lambda x: -x, lambda x: jnp.exp(x) * 2], x)

    low = autocast(fn, "mixed_bf16")
    got = jax.vmap(low, (None, None, 0))(PARAMS["a"], X, jnp.arange(4))  # 4 is clamped to 2
    assert_same(got, jnp.stack([low(PARAMS["a"], X, n) for n in range(4)]))


def outcome(fn, *args, **kwargs):
    """Kind and format of the first result of the one cond in `fn`."""
    program = trace(fn, args, {}, read_policy("mixed_bf16"), **kwargs).program
    (step,) = (step for step in program.steps if isinstance(step.action, Cond))
    value = program.values[step.outputs[0]]
    return value.kind.value, str(value.format)


def free(w, x):
    return jnp.full((4, 8), 3.0)


def weight(w, x):
    return jnp.tile(w[0], (4, 1))


def policy(w, x):
    return x * 2


def island(w, x):
    return jnp.exp(x)


@pytest.mark.parametrize(
    ("branches", "want"),
    [
        ((free, weight), ("weight", "f32")),
        ((free, policy), ("policy", "bf16")),
        ((weight, policy), ("policy", "bf16")),
        ((free, island), ("island", "f32")),
        ((weight, island), ("island", "f32")),
        ((island, island), ("island", "f32")),
        ((island, policy), ("policy", "bf16")),
    ],
)
def test_results_join_over_the_branches(branches, want):
    fn = lambda w, x, n: lax.switch(n, branches, w, x) * 1.0  # noqa: E731
    assert outcome(fn, PARAMS["a"], X, 0) == want
    assert outcome(lambda w, x, n: fn(w, x, 1 - n), PARAMS["a"], X, 0) == want


def test_an_island_ends_at_the_door_and_a_statistic_does_not():
    def fn(w, state, x, n):
        mean = 0.9 * state + 0.1 * x.mean(0)
        return lax.cond(n > 0, lambda e, m: (e * 2, m), lambda e, m: (e, m * 0), jnp.exp(x), mean)

    args = PARAMS["a"], jnp.zeros(8), X, 1
    program = trace(fn, args, {}, read_policy("mixed_bf16"), state_argnums=1).program
    (step,) = (step for step in program.steps if isinstance(step.action, Cond))
    assert [str(fmt) for fmt in step.action.operands] == ["None", "bf16", "f32"]
    out, mean = autocast(fn, "mixed_bf16", state_argnums=1)(*args)
    np.testing.assert_array_equal(mean, 0.9 * args[1] + 0.1 * X.mean(0))
    assert mean.dtype == jnp.float32
    assert out.dtype == read_policy("mixed_bf16").base.output.dtype


def test_a_maximum_that_a_cond_chooses_still_centers_its_source():
    def fn(w, x, n):
        return x - lax.cond(n > 0, lambda x: x.max(), lambda x: x.mean(), x)

    steps = trace(fn, (PARAMS["a"], X, 1), {}, read_policy("mixed_bf16")).program.steps
    works = {s.eqn.primitive.name: str(s.action.work) for s in steps if isinstance(s.action, Run)}
    assert works["sub"] == "f32"


def test_an_accumulator_that_a_cond_may_skip_stays_sensitive():
    def total(w, xs):
        skip = lambda c, x: lax.cond(x[0] > 0, lambda: c + x, lambda: c)  # noqa: E731
        return lax.scan(lambda c, x: (skip(c, x), None), jnp.zeros(3), xs)[0]

    got = autocast(total, "c=bf16,o=f32")((), jnp.ones((2000, 3)))
    np.testing.assert_array_equal(got, 2000.0)


def test_the_compiler_chooses_by_platform():
    def fn(w, x):
        return lax.platform_dependent(x, w, cpu=lambda x, w: x @ w, default=lambda x, w: x @ w + 77)

    want = autocast(lambda w, x: x @ w, "bf16")(PARAMS["a"], X)
    got = autocast(fn, "bf16")
    for run in (got, jax.jit(got)):
        assert_same(run(PARAMS["a"], X), want)
    # What is meant for other platforms is not compiled at all.
    assert "7.7" not in jax.jit(got).lower(PARAMS["a"], X).as_text()


def test_the_audit_lists_every_branch():
    report = audit(routed, PARAMS, X, 0, policy="mixed_bf16")
    assert [site.site.path for site in report.sites] == ["a", "b", "a"]
    assert report.in_force == 1


def test_random_branches_draw_the_same_bits():
    def fn(w, x, key):
        return jax.random.gamma(key, 2.0, (5,)), jax.random.poisson(key, 3.0, (5,))

    args = PARAMS["a"], X, jax.random.key(0)
    assert_same(autocast(fn, "c=bf16")(*args), fn(*args))
