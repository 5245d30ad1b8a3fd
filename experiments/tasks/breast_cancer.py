"""An example of a task of your own: tell benign from malignant tumors by 30 measurements.

Copy this file, change it, and give its path as a task's `name` in a sweep file. Any object with
these attributes and methods will do; `precis.train.task.Task` says what each must hold.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer

from precis.adapters import Apply, bind
from precis.models import MLP


class BreastCancer(NamedTuple):
    """Standardized measurements [n, 30], classes [n], and the network that connects them."""

    x: np.ndarray
    y: np.ndarray
    apply: Apply
    facts: dict[str, Any]
    name: str = "breast_cancer"
    metric: tuple[str, str] = ("eval_loss", "min")
    unit: str = "nats"

    def init(self, key: jax.Array) -> Any:
        """Fresh weights."""
        return bind(MLP(classes=2), self.x[:1], key=key)[:2]

    def batch(self, seed: int, step: int) -> Any:
        """32 of the patients that are trained on: drawn from (seed, step), so any can be redone."""
        chosen = np.random.default_rng([seed, step]).integers(400, size=32)
        return self.x[chosen], self.y[chosen]

    def loss(self, params: Any, state: Any, batch: Any, *, key: Any, train: bool) -> Any:
        """Cross-entropy, with the accuracy; plain JAX, whatever the policy."""
        x, y = batch
        logits, state = self.apply(params, state, x, key=key, train=train)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, (state, {"accuracy": (logits.argmax(-1) == y).mean()})

    def eval_batches(self) -> Any:
        """The patients that are never trained on."""
        return [(self.x[400:], self.y[400:])]


def task() -> BreastCancer:
    """What a sweep calls; arguments would be the sweep file's `options`."""
    x, y = map(np.asarray, load_breast_cancer(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(y))
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)[order]
    apply = bind(MLP(classes=2), x[:1], key=jax.eval_shape(jax.random.key, 0)).apply
    return BreastCancer(x, y[order].astype(np.int32), apply, {"train": 400, "eval": len(y) - 400})
