"""Numbers drawn by NumPy, for which nothing is compiled; `jax.random` is, anew for each shape."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
    """Float32 from a normal distribution of this standard deviation."""
    drawn = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return jnp.asarray(drawn, jnp.float32)
