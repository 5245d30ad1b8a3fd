"""The global norm against float64 NumPy, where squares overflow and underflow too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.optim import clip_by_norm, gradient_norm

measure = jax.jit(gradient_norm)


def norm64(*leaves):
    """The 2-norm in float64, which holds the square of every float32."""
    flat = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in leaves])
    return np.sqrt(np.sum(flat**2))


@pytest.mark.parametrize("size", [1e-35, 1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e20, 1e30, 1e37])
def test_every_magnitude(size):
    rng = np.random.default_rng(0)
    grads = [np.float32(rng.standard_normal(s) * size) for s in [(17, 5), (), (40,)]]
    norm = measure(grads)
    assert bool(norm.finite)
    # 126 terms: each of the sums, squares, quotients and the root is off by at most 2^-24.
    np.testing.assert_allclose(float(norm.value), norm64(*grads), rtol=130 * 2.0**-24)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("others", [0.0, 1.0, 1e4, 1e-30])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_one_bad_entry_among_many_is_seen(bad, others, dtype):
    # Above 65535 entries, jnp.max on CPU drops a NaN.
    leaf = jnp.full(70_000, others).astype(dtype).at[65_432].set(bad)
    norm = measure({"a": jnp.ones(3), "b": leaf})
    assert not bool(norm.finite)
    assert not np.isfinite(norm.value)


def test_finite_gradients_whose_norm_is_beyond_float32():
    norm = measure([jnp.full(4, 3e38)])
    assert bool(norm.finite)
    assert float(norm.value) == np.finfo(np.float32).max


def test_zeros_and_nothing():
    assert [float(x) for x in measure([jnp.zeros(5)])] == [0.0, 1.0]
    assert [float(x) for x in measure({})] == [0.0, 1.0]
    assert [float(x) for x in measure([jnp.zeros((0, 3))])] == [0.0, 1.0]


def test_it_unscales_in_float32():
    # 2^-24 is the smallest float16; over 2^15 it would be 0 there.
    norm = gradient_norm(jnp.full(4, 2.0**-24, jnp.float16), scale=jnp.float32(2**15))
    assert float(norm.value) == 2.0**-38


def test_what_overflows_by_unscaling_is_not_finite():
    assert not bool(gradient_norm(jnp.float32(1e38), scale=jnp.float32(2**-14)).finite)


def test_the_largest_scale_does_not_lose_its_reciprocal():
    # Beyond 2^126 it would be subnormal, and flushed to 0 on CPU.
    assert float(measure(jnp.float32(2.0**126), scale=jnp.float32(2.0**126)).value) == 1.0


def test_integers_do_not_count_and_complex_numbers_are_refused():
    assert float(gradient_norm([jnp.int32(7), jnp.float32(2)]).value) == 2
    with pytest.raises(TypeError, match="must be real"):
        gradient_norm(jnp.complex64(1j))


def test_each_of_a_batch_has_its_own():
    norm = jax.vmap(gradient_norm)(jnp.array([[3.0, 4.0], [1e20, 0.0], [jnp.nan, 0.0]]))
    assert norm.finite.tolist() == [True, True, False]
    np.testing.assert_array_equal(norm.value[:2], np.float32([5.0, 1e20]))


def test_clipping_leaves_what_is_within_and_shortens_what_is_not():
    clip = jax.jit(lambda g: clip_by_norm(1.0).update(g, optax.EmptyState())[0])
    small, large = jnp.float32([0.1, -0.7]), jnp.float32([3.0, -4.0])
    np.testing.assert_array_equal(clip(small), small)
    np.testing.assert_array_equal(clip(large), np.float32([0.6, -0.8]))


def test_clipping_agrees_with_optax_in_float32():
    rng = np.random.default_rng(1)
    grads = {"a": jnp.float32(rng.standard_normal((30, 3))), "b": jnp.float32(2.5)}
    for limit in [0.1, 1.0, 100.0]:
        ours, _ = clip_by_norm(limit).update(grads, optax.EmptyState())
        theirs, _ = optax.clip_by_global_norm(limit).update(grads, optax.EmptyState())
        # One norm of 91 terms and two roundings apart.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


def test_clipping_float16_gradients_does_not_zero_them():
    # The norm, 256_000, is Inf in float16: optax's own gives updates of 0.
    grads = jnp.full(65536, 1000.0, jnp.float16)
    updates, _ = clip_by_norm(1.0).update(grads, optax.EmptyState())
    np.testing.assert_array_equal(updates, np.float32(1 / 256))


def test_clipping_huge_gradients_does_not_zero_them():
    updates, _ = clip_by_norm(1e-10).update(jnp.float32([3e30, 4e30]), optax.EmptyState())
    np.testing.assert_allclose(updates, [6e-11, 8e-11], rtol=2.0**-21)


def test_clipping_does_not_hide_what_is_not_finite():
    for bad in [jnp.nan, jnp.inf]:
        updates, _ = clip_by_norm(1.0).update(jnp.array([bad, 1.0]), optax.EmptyState())
        assert not np.isfinite(updates).all()


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_is_positive(limit):
    with pytest.raises(ValueError, match="more than 0"):
        clip_by_norm(limit)
