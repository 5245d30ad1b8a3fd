"""A multilayer perceptron, in linen."""

from __future__ import annotations

from flax import linen as nn
from jax import Array


class MLP(nn.Module):
    """Dense layers with relu between them.

    Attributes:
        hidden: Width of each hidden layer.
        classes: Number of logits.
    """

    hidden: tuple[int, ...] = (128, 128)
    classes: int = 10

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits [..., classes] for features `x` [..., features]."""
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes)(x)
