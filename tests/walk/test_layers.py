"""Layers under a policy: in force, and near what they are without.

Under f32 each gives what it gives without, and under bf16 all of its products are in force, and
values and gradients are near. `UNSUPPORTED` says which layers are not; it is empty.
"""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from precis.walk import audit, autocast

from .layers import LINEN, NNX, OTHERS, cases

UNSUPPORTED: dict[str, str] = {}

# One of each kind by day, all of them by night.
DAILY = {
    "Conv strided and grouped",
    "LSTMCell",
    "SpectralNorm",
    "MultiHeadAttention",
    "LoRALinear",
    *OTHERS,
}


@pytest.mark.parametrize(("case", "name"), list(cases(DAILY)))
def test_a_layer(case, name):
    with jax.numpy_dtype_promotion("standard"):  # flax and equinox rely on it
        run, params, x = case(name)
        loss = lambda fn: jax.jit(jax.value_and_grad(  # noqa: E731
            lambda p, x: (lambda out: (jnp.mean(out.astype(jnp.float32) ** 2), out))(fn(p, x)),
            allow_int=True, has_aux=True))  # fmt: skip
        report = audit(run, params, x, policy="mixed_bf16")
        assert report.flops > 0
        # Spectral norm's power iteration multiplies parameters and state alone: as written.
        of_data = [a for a in report.sites if not (a.roles.lhs.is_weight and a.roles.rhs.is_weight)]
        assert of_data
        assert not any(audited.site.pinned for audited in of_data)
        assert report.opaque_flops == 0
        (_, out), grads = loss(run)(params, x)
        (_, same), same_grads = loss(autocast(run, "f32"))(params, x)
        (_, near), near_grads = loss(autocast(run, "mixed_bf16"))(params, x)
    np.testing.assert_allclose(same, out, rtol=1e-4, atol=1e-4)
    assert near.dtype == out.dtype
    assert relative(near, out) < 0.03
    # Some gradients are zero but for rounding: of a bias before a norm, of a key's bias.
    largest = max(float(jnp.linalg.norm(g)) for g in jax.tree.leaves(grads))
    for a, b, c in zip(*map(jax.tree.leaves, (grads, same_grads, near_grads)), strict=True):
        assert float(jnp.linalg.norm(b - a)) <= 1e-4 * largest
        if name != "sorted":  # where rounding may send a row to another expert
            assert float(jnp.linalg.norm(c - a)) <= 0.05 * largest


def relative(got, want):
    return float(jnp.linalg.norm(got - want) / (jnp.linalg.norm(want) + 1e-6))


def holds_a_product(module, library):
    """Whether a layer class computes with a kernel of its own, by what its source says."""
    if not (isinstance(module, type) and issubclass(module, library.Module)):
        return False
    source = inspect.getsource(module)
    return any(word in source for word in ("dot_general", "conv_general", "einsum", "self.kernel"))


@pytest.mark.nightly
def test_no_layer_is_left_out():
    """What flax exports with a product in it is in the list above."""
    known = {
        # No layers, but quantizers to be injected into one, with fp8 formats of their own: here a
        # policy says that, such as `c=e4m3fn@tensor`.
        "Fp8DotGeneral", "Fp8DirectDotGeneralOp", "Fp8DotGeneralOp", "Fp8Einsum",
    }  # fmt: skip
    for library, listed in ((nn, LINEN), (nnx, NNX)):
        members = vars(library).items()
        classes = {name for name, value in members if holds_a_product(value, library)}
        covered = {name.split()[0] for name in listed}
        assert classes - covered - known - set(UNSUPPORTED) == set()
