"""The same network in linen and in nnx, with the same names, and in NumPy: the oracle of both."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from precis.adapters import Bound, bind

WIDTHS = (3, 4, 2)
MOMENTUM, EPSILON = 0.9, 1e-5
X = np.random.default_rng(0).normal(size=(6, WIDTHS[0])).astype(np.float32)


class Linen(linen.Module):
    rate: float = 0.0
    param_dtype: Any = jnp.float32

    def setup(self):
        self.first = linen.Dense(WIDTHS[1], param_dtype=self.param_dtype)
        self.norm = linen.BatchNorm(momentum=MOMENTUM, epsilon=EPSILON)
        self.drop1 = linen.Dropout(self.rate)
        self.drop2 = linen.Dropout(self.rate)
        self.last = linen.Dense(WIDTHS[2], param_dtype=self.param_dtype)

    def __call__(self, x, train):
        x = self.norm(self.first(x), use_running_average=not train)
        x = self.drop1(x, deterministic=not train), self.drop2(x, deterministic=not train)
        return self.last(x[0] + x[1])


class Nnx(nnx.Module):
    def __init__(self, rate=0.0, param_dtype=jnp.float32, *, rngs):
        self.first = nnx.Linear(WIDTHS[0], WIDTHS[1], param_dtype=param_dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTHS[1], momentum=MOMENTUM, epsilon=EPSILON, rngs=rngs)
        self.drop1 = nnx.Dropout(rate, rngs=rngs)
        self.drop2 = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(WIDTHS[1], WIDTHS[2], param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.first(x))
        return self.last(self.drop1(x) + self.drop2(x))


class Library(NamedTuple):
    """How a test makes the network, takes it apart, and calls it in eval mode by itself."""

    make: Callable[..., Any]
    bind: Callable[[Any], Bound]
    evaluate: Callable[[Any, Any], Any]
    statistics: Callable[[Any], dict[str, Any]]


def evaluate_nnx(module, x):
    module.eval()
    return module(x)


LIBRARIES = {
    "linen": Library(
        Linen,
        lambda module: bind(module, X, key=jax.random.key(0), train="train"),
        lambda module, x: module(x, train=False),
        lambda state: state["batch_stats"]["norm"],
    ),
    "nnx": Library(
        lambda **options: Nnx(**options, rngs=nnx.Rngs(0)),
        bind,
        evaluate_nnx,
        lambda state: state["norm"],
    ),
}


def forward(params, statistics, x, *, train):
    """The network without dropout in float64: (out, running statistics afterwards)."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    mean, var = (np.asarray(statistics[name], np.float64) for name in ("mean", "var"))
    x = x.astype(np.float64) @ p["first"]["kernel"] + p["first"]["bias"]
    if train:
        now = x.mean(0), x.var(0)
        after = [MOMENTUM * a + (1 - MOMENTUM) * b for a, b in zip((mean, var), now, strict=True)]
    else:
        now = after = mean, var
    x = (x - now[0]) / np.sqrt(now[1] + EPSILON) * p["norm"]["scale"] + p["norm"]["bias"]
    out = 2 * x @ p["last"]["kernel"] + p["last"]["bias"]
    return out, dict(zip(("mean", "var"), after, strict=True))
