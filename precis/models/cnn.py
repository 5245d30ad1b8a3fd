"""A small convolutional network with BatchNorm, in nnx."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


class CNN(nnx.Module):
    """Two convolutions, each with BatchNorm and relu, the mean over the image, a linear head."""

    def __init__(self, channels: int = 16, classes: int = 10, *, rngs: nnx.Rngs) -> None:
        """The second convolution halves the image's sides and doubles `channels`."""
        self.conv1 = nnx.Conv(1, channels, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(channels, 2 * channels, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(2 * channels, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(2 * channels, classes, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """Logits [batch, classes] for `images` [batch, height, width, 1]."""
        x = jax.nn.relu(self.norm1(self.conv1(images)))
        x = jax.nn.relu(self.norm2(self.conv2(x)))
        return self.head(jnp.mean(x, axis=(1, 2)))
