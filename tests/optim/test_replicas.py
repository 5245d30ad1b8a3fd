"""What JAX knows of replicas, on a mesh of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from precis.optim import is_same, varying


def seen(look, axes, **options):
    """What `look` says inside shard_map, of a value that is the same everywhere and of one not."""
    found = []

    def local(same, own):
        found.append(look(same, own))
        return lax.psum(varying(same, axes) + varying(own, axes), axes)

    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("a", "b"))
    specs = {"in_specs": (P(), P(axes)), "out_specs": P()}
    jax.make_jaxpr(jax.shard_map(local, mesh=mesh, **specs, **options))(jnp.ones(3), jnp.ones(3))
    return found[0]


@pytest.mark.world
@pytest.mark.parametrize("axes", ["a", ("a", "b")])
def test_what_varies_is_known_under_the_check(axes):
    def look(same, own):
        cast = varying({"x": same, "y": own}, axes)
        return [is_same(x, axes) for x in (same, own, cast["x"], cast["y"])]

    assert seen(look, axes) == [True, False, False, False]
    # Without it nothing is known, and nothing is claimed.
    assert seen(look, axes, check_vma=False) == [False] * 4


@pytest.mark.world
@pytest.mark.parametrize("check", [True, False])
def test_the_gradient_at_varying_parameters_is_not_summed(check):
    def gradient(of):
        def local(w, x):
            grads = jax.grad(lambda w: (w * x).sum())(of(w))
            return lax.psum(varying(grads, "a"), "a")

        mesh = Mesh(np.array(jax.devices()[:1]), "a")
        specs = {"in_specs": (P(), P("a")), "out_specs": P(), "check_vma": check}
        return jax.make_jaxpr(jax.shard_map(local, mesh=mesh, **specs))(jnp.ones(3), jnp.ones(3))

    sums = [gradient(of).pretty_print().count(" psum") for of in (lambda w: w, vary)]
    assert sums == ([2, 1] if check else [1, 1])


def vary(w):
    return varying(w, "a")


def test_rows_of_a_vmap_keep_no_count():
    x = jnp.arange(3.0)
    got = jax.vmap(lambda x: varying(x, "rows") + is_same(x, "rows"), axis_name="rows")(x)
    np.testing.assert_array_equal(got, x)
