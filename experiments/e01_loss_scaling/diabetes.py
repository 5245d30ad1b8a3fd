"""How far a disease has come after a year, from ten measurements, in a unit as large as SI's are.

Targets of 10^-3 make gradients of 10^-8: nothing to float32, and less than float16 has.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

from precis.adapters import Apply, bind
from precis.models import MLP

# Patients that are never trained on: the last of a fixed shuffle.
_EVAL = 90
# What the score, whose deviation is 77, is divided by; and what one of the network's outputs means.
_UNIT, _OUTPUT = 1e5, 1e-3


class Diabetes(NamedTuple):
    """Measurements [n, 10], scores [n], and the network that connects them."""

    x: np.ndarray
    y: np.ndarray
    apply: Apply
    facts: dict[str, Any]
    name: str = "diabetes"
    metric: tuple[str, str] = ("eval_nmse", "min")
    unit: str = ""

    def init(self, key: jax.Array) -> Any:
        """Fresh weights."""
        return bind(_network(), self.x[:1], key=key)[:2]

    def batch(self, seed: int, step: int) -> Any:
        """All patients that are trained on, as in any small regression."""
        return self.x[:-_EVAL], self.y[:-_EVAL]

    def loss(self, params: Any, state: Any, batch: Any, *, key: Any, train: bool) -> Any:
        """Mean square, and the same in units of the targets' variance."""
        x, y = batch
        out, state = self.apply(params, state, x, key=key, train=train)
        loss = jnp.mean((out[:, 0] * _OUTPUT - y) ** 2)
        return loss, (state, {"nmse": loss / np.var(self.y)})

    def eval_batches(self) -> Any:
        """The patients that are never trained on."""
        return [(self.x[-_EVAL:], self.y[-_EVAL:])]


def task() -> Diabetes:
    """What a sweep calls."""
    x, y = map(np.asarray, load_diabetes(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(y))
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)[order]
    y = ((y - y.mean()) / _UNIT).astype(np.float32)[order]
    apply = bind(_network(), x[:1], key=jax.eval_shape(jax.random.key, 0)).apply
    return Diabetes(x, y, apply, {"train": len(y) - _EVAL, "eval": _EVAL})


def _network() -> MLP:
    return MLP(hidden=(64, 64), classes=1)
