"""Stochastic roles under autocast: who draws the same bits, who does not, and what keys may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.walk import audit, autocast
from tests.draws import normal

from .laws import UNOPTIMIZED, assert_same, compiled

KEY = jax.random.key(0)
# Results show their operands as these were rounded: the weights are identities.
FORWARD = "p=f32,c=e4m3(stochastic),k=f32,g=f32,x=f32,o=f32"
BACKWARD = "p=f32,c=f32,g=e4m3(stochastic),x=f32,o=f32"
EYE = jnp.asarray(np.eye(8, dtype=np.float32))
X = normal(1, 8, 8)


def all_differ(rows):
    flat = [np.asarray(row).tobytes() for row in rows]
    return len(set(flat)) == len(flat)


@pytest.mark.world
def test_ops_of_equal_shape_and_uses_of_one_parameter_draw_their_own():
    def fn(params, x):
        tied = [x @ params["a"], x @ params["a"]]
        scores = [jnp.einsum("ik,jk->ij", x, EYE), jnp.einsum("ik,jk->ij", x, EYE)]
        return [*tied, x @ params["b"], *scores]

    params = {"a": EYE, "b": EYE}
    cast = lambda key, p: autocast(fn, FORWARD, key=key)(p, X)  # noqa: E731
    run = compiled(cast)
    rows = run(KEY, params)
    assert all_differ(rows)
    # Two neighbors of a value are an eighth of it apart, or the smallest subnormals' distance.
    assert all((np.abs(row - X) <= np.maximum(np.abs(X) / 8, 2.0**-9)).all() for row in rows)
    assert_same(run(KEY, params), rows)
    assert_same(cast(KEY, params), rows)
    assert_same(run(jax.random.PRNGKey(0), params), rows)
    assert all_differ([*rows, *run(jax.random.key(1), params)])


def looped(params, x):
    """Each layer and each trip of a loop starts from `x`, so that only the draws differ."""
    _, stacked = lax.scan(lambda c, w: (c, x @ w), jnp.float32(0), params)
    _, nested = lax.scan(
        lambda c, _: (c, lax.scan(lambda d, w: (d, x @ w), c, params)[1]), jnp.float32(0), None, 2
    )
    w = params[0]

    def trip(state):
        count, seen = state
        return count + 1, seen.at[count].set(x @ w)

    seen = lax.while_loop(lambda s: s[0] < 3, trip, (0, jnp.zeros((3, 8, 8))))[1]
    branch = lax.cond(x.sum() > 0, lambda: (x @ w)[None], lambda: (x @ w)[None] * 2)
    return stacked, nested.reshape(-1, 8, 8), seen, branch


@pytest.mark.world
def test_every_trip_of_a_loop_draws_its_own():
    params = jnp.broadcast_to(EYE, (3, 8, 8))
    groups = compiled(lambda key: autocast(looped, FORWARD, key=key)(params, X))(KEY)
    assert [len(group) for group in groups] == [3, 6, 3, 1]
    assert all_differ([row for group in groups for row in group])


def deep(params, x):
    block = lambda h, w: (jax.nn.relu(h @ w), None)  # noqa: E731
    return lax.scan(block, x, params)[0].sum()


@pytest.mark.parametrize(
    "policy",
    [
        "int8(stochastic)",
        *(pytest.param(policy, marks=pytest.mark.nightly) for policy in (FORWARD, BACKWARD)),
    ],
)
def test_what_is_computed_again_draws_what_it_drew(policy):
    params = normal(2, 3, 8, 8)

    def again(params, x):
        block = jax.checkpoint(lambda h, w: jax.nn.relu(h @ w))
        return lax.scan(lambda h, w: (block(h, w), None), x, params)[0].sum()

    def run(fn):
        grad = jax.value_and_grad(lambda p, x, key: autocast(fn, policy, key=key)(p, x), (0, 1))
        return compiled(grad, UNOPTIMIZED)(params, X, KEY)

    assert_same(run(again), run(deep))
    assert_same(run(jax.checkpoint(deep)), run(deep))


@jax.custom_jvp
def layer(w, x):
    return x @ w


# Gradients pass as they are, through two products that the function itself has not.
layer.defjvp(lambda p, t: (layer(*p), t[1] @ p[0] + p[1] @ t[0]))


@pytest.mark.world
def test_a_derivative_rule_of_the_users_draws_for_itself():
    def fn(w, x):
        return layer(w, x), layer(w, x[::-1])[::-1]

    cast = lambda x, key: autocast(fn, FORWARD, key=key)(EYE, x)  # noqa: E731
    rows = X.at[4:].set(X[3::-1])  # the same from both ends

    @compiled
    def twice(x):
        y, pull = jax.vjp(lambda a, b: [cast(a, KEY)[0], cast(b, KEY)[1]], x, x)
        return y, pull([rows, rows])

    y, grads = twice(rows)
    # The pass that differentiation runs draws what the function does when it is called.
    assert_same(y, list(compiled(cast)(rows, KEY)))
    assert all_differ([*y, *grads])


@pytest.mark.world
def test_jvp_goes_through_in_forward_mode():
    cast = lambda x, key: autocast(  # noqa: E731
        lambda w, x: layer(w, x) @ w, FORWARD.replace("g=f32,", ""), key=key, forward_mode=True
    )(EYE, x)
    y, tangent = compiled(lambda x: jax.jvp(lambda x: cast(x, KEY), (x,), (jnp.ones_like(x),)))(X)
    assert_same(y, compiled(cast)(X, KEY))
    assert (y != X).any()
    assert np.isfinite(tangent).all()


@pytest.mark.world
def test_rows_of_a_vmap():
    rows = jnp.broadcast_to(X, (3, 8, 8))
    inside = compiled(autocast(jax.vmap(lambda w, x: x @ w, (None, 0)), FORWARD, key=KEY))
    assert all_differ(inside(EYE, rows))

    def row(key, x):
        return autocast(lambda w, x: x @ w, FORWARD, key=key)(EYE, x)

    assert not all_differ(compiled(jax.vmap(row, (None, 0)))(KEY, rows))
    keys = jax.random.split(KEY, 3)
    drawn = compiled(jax.vmap(row))(keys, rows)
    assert all_differ(drawn)
    assert_same(drawn[1], row(keys[1], X))


def test_a_rule_by_path_makes_one_op_stochastic():
    def fn(params, x):
        return x @ params["body"], x @ params["head"]

    rules = "f32; head: c=e4m3(stochastic),k=f32,g=f32"
    body, head = compiled(autocast(fn, rules, key=KEY))({"body": EYE, "head": EYE}, X)
    assert_same(body, X)
    assert (head != X).any()
    with pytest.raises(ValueError, match="wants a random key: pass key="):
        autocast(fn, rules)({"body": EYE, "head": EYE}, X)
    # An audit computes nothing, and needs none.
    report = audit(fn, {"body": EYE, "head": EYE}, X, policy=rules)
    assert [site.formats for site in report.sites] == ["f32", "e4m3(stochastic)·f32"]


def test_keys_that_are_none():
    fn = lambda w, x: x @ w  # noqa: E731
    with pytest.raises(ValueError, match=r"g=e4m3\(stochastic\).* rounds by chance, and wants"):
        autocast(fn, BACKWARD)(EYE, X)
    with pytest.raises(TypeError, match=r"a random key is wanted, as from jax\.random\.key"):
        autocast(fn, BACKWARD, key=3)(EYE, X)
    with pytest.raises(TypeError, match="a random key is wanted"):
        autocast(fn, BACKWARD, key=X)(EYE, X)
    with pytest.raises(ValueError, match="got an array of them of shape \\(2,\\)"):
        autocast(fn, BACKWARD, key=jax.random.split(KEY))(EYE, X)


def test_what_rounds_to_nearest_ignores_a_key():
    program = lambda **key: str(  # noqa: E731
        jax.make_jaxpr(jax.grad(autocast(deep, "int8", **key), (0, 1)))(X[None], X)
    )
    assert program(key=KEY) == program()
    # And bits are drawn nowhere else than where a role is stochastic.
    assert "random_bits" not in str(jax.make_jaxpr(autocast(deep, BACKWARD, key=KEY))(X[None], X))
