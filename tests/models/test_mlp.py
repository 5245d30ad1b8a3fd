"""The MLP against NumPy in float64."""

import jax
import numpy as np

from precis.adapters import bind
from precis.models import MLP


def test_logits_are_those_of_the_oracle():
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    params, state, apply = bind(MLP(hidden=(7, 6), classes=3), x, key=jax.random.key(0))
    assert sorted(params) == ["Dense_0", "Dense_1", "Dense_2"]
    wanted = x.astype(np.float64)
    for i in range(3):
        layer = params[f"Dense_{i}"]
        wanted = wanted @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        wanted = np.maximum(wanted, 0) if i < 2 else wanted
    np.testing.assert_allclose(apply(params, state, x)[0], wanted, rtol=1e-5, atol=1e-5)
