"""Which elementwise steps are differentiated as one."""

import jax.numpy as jnp
import pytest

from precis.policy import read_policy
from precis.walk.autocast import trace
from precis.walk.regions import regions_of


def regions(fn, *args, policy="c=bf16,o=f32"):
    program = trace(fn, args, {}, read_policy(policy)).program
    found = regions_of(program)
    return [
        [program.steps[i].eqn.primitive.name for i in members]
        for _, members in sorted(found.items())
    ]


W, X = jnp.ones((4, 4)), jnp.ones((2, 4))


def test_a_tree_is_one():
    assert regions(lambda w, x: jnp.tanh((x @ w) * 0.5) * (x @ w) - 1.0, W, X) == [
        ["mul", "tanh", "mul", "sub"]
    ]


def test_what_is_read_twice_ends_one_unless_both_readers_are_inside():
    def inside(w, x):
        h = jnp.tanh(x @ w)
        return h * jnp.sin(h)

    def outside(w, x):
        h = jnp.tanh(x @ w)
        return (h @ w) * h

    assert regions(inside, W, X) == [["tanh", "sin", "mul"]]
    assert regions(outside, W, X) == [["tanh"], ["mul"]]


def test_two_results_are_two_regions():
    def rotate(w, x):
        a, b = x @ w, x @ w.T
        return a * 0.5 - b * 2.0, a * 2.0 + b * 0.5

    assert regions(rotate, W, X) == [["mul", "mul", "sub"], ["mul", "mul", "add"]]


def test_no_step_is_put_off_beyond_another_reader_of_its_operand():
    """Else the cotangents of `h` would be added in another order."""

    def fn(w, x):
        h = x @ w
        first = jnp.tanh(h)
        second = h @ w
        return first * second

    assert regions(fn, W, X) == [["tanh"], ["mul"]]


@pytest.mark.parametrize("policy", ["f32", "c=bf16,x=f32,o=f32"])
def test_none_where_nothing_is_rounded(policy):
    assert regions(lambda w, x: jnp.tanh(x @ w), W, X, policy=policy) == []
