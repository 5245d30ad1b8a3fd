"""Ragged dots, as in a mixture of experts, against a loop over the groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from precis.walk import audit, autocast
from tests.draws import normal

SIZES = jnp.array([3, 0, 5])


def experts(params, x):
    return jnp.tanh(lax.ragged_dot(x, params["experts"], SIZES))


def by_hand(w, x):
    parts = jnp.split(x, np.cumsum(np.asarray(SIZES))[:-1])
    return jnp.concatenate([part @ w[i] for i, part in enumerate(parts)])


def data():
    return {"experts": normal(0, 3, 16, 4)}, normal(1, 8, 16)


@pytest.mark.world
@pytest.mark.parametrize("policy", ["bf16", "int8", "c=e5m7,o=f32"])
def test_values_and_gradients(policy):
    params, x = data()
    loss = lambda p, x: jnp.sum(autocast(experts, policy)(p, x).astype(jnp.float32) ** 2)  # noqa: E731
    plain = lambda p, x: jnp.sum(jnp.tanh(by_hand(p["experts"], x)) ** 2)  # noqa: E731
    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x)
    want, wanted = jax.jit(jax.value_and_grad(plain, (0, 1)))(params, x)
    np.testing.assert_allclose(value, want, rtol=0.03)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        a, b = np.asarray(a), np.asarray(b)
        assert np.linalg.norm(a - b) / np.linalg.norm(b) < 0.06
    assert not grads[0]["experts"][1].any()  # a group without rows


def test_bf16_is_what_a_loop_over_groups_gives():
    params, x = data()
    low = lambda a: a.astype(jnp.bfloat16).astype(jnp.float32)  # noqa: E731
    got = autocast(lambda p, x: lax.ragged_dot(x, p["experts"], SIZES), "mixed_bf16")(params, x)
    want = by_hand(low(params["experts"]), low(x))
    np.testing.assert_allclose(got, low(want), rtol=2.0**-8)


def test_it_is_a_matrix_op_of_its_experts():
    params, x = data()
    report = audit(experts, params, x, policy="mixed_bf16; experts: k=e4m3fn")
    (site,) = report.sites
    assert (site.site.path, site.formats, report.in_force) == ("experts", "bf16·e4m3fn", 1.0)
    assert report.flops == 2 * 8 * 16 * 4
