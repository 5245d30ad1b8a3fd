"""Paths, float maps and sizes of trees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from precis.tree import leaves_with_paths, map_floats, nbytes


class Pair(NamedTuple):
    left: object
    right: object


def test_paths_name_dicts_lists_and_fields():
    tree = {"a": [1, Pair(2, {"b": 3})]}
    assert [path for path, _ in leaves_with_paths(tree)] == ["a/0", "a/1/left", "a/1/right/b"]


def test_map_floats_leaves_the_rest():
    tree = {"x": jnp.ones(2, jnp.float8_e4m3fn), "n": jnp.arange(2), "k": jax.random.key(0)}
    mapped = map_floats(lambda x: x.astype(jnp.float32), tree)
    assert mapped["x"].dtype == jnp.float32
    assert mapped["n"] is tree["n"]
    assert mapped["k"] is tree["k"]


def test_nbytes_counts_storage():
    tree = {"x": jnp.ones((3, 4), jnp.bfloat16), "n": jnp.int32(1), "k": jax.random.key(0)}
    assert nbytes(tree) == 24 + 4 + 8
    assert nbytes(jax.ShapeDtypeStruct((5,), jnp.float32)) == 20
