"""A decoder-only transformer, in nnx, whose layers are stacked and run by one `lax.scan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from precis.models.remat import remat


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder.

    Attributes:
        vocabulary: Number of different tokens.
        dim: Width of the residual stream.
        layers: Number of layers.
        heads: Number of attention heads, each `dim / heads` wide.
        hidden: Width of the MLP's hidden layer; None is 3 · dim.
        remat: Whether the backward pass computes each layer's activations anew; or which of them
            it saves, as `precis.remat` has it.
    """

    vocabulary: int = 256
    dim: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int | None = None
    remat: bool | str = False

    def __post_init__(self) -> None:
        """Refuses heads that do not fit."""
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"dim must be a multiple of 2 · heads, for rotations turn pairs; "
                f"got dim={self.dim}, heads={self.heads}"
            )


class Decoder(nnx.Module):
    """Next-token logits for each position, from it and what comes before it."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        """Each layer gets weights of its own, stacked along a first axis."""

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap
        def make_layers(rngs: nnx.Rngs) -> Layer:
            return Layer(config, rngs=rngs)

        self.embed = nnx.Embed(config.vocabulary, config.dim, rngs=rngs)
        self.layers = make_layers(rngs)
        self.norm = nnx.RMSNorm(config.dim, rngs=rngs)
        self.head = nnx.Linear(config.dim, config.vocabulary, use_bias=False, rngs=rngs)
        self.remat = config.remat

    def __call__(self, tokens: Array) -> Array:
        """Logits [batch, length, vocabulary] for `tokens` [batch, length] of any integer dtype."""
        graphdef, weights = nnx.split(self.layers)

        def run(x: Array, weights: Any) -> tuple[Array, None]:
            return nnx.merge(graphdef, weights)(x), None

        x = self.embed(tokens.astype(jnp.int32))
        if self.remat:
            run = remat(run, "nothing" if self.remat is True else self.remat)
        x, _ = jax.lax.scan(run, x, weights)
        return self.head(self.norm(x))


class Layer(nnx.Module):
    """Attention, then an MLP, each normalized before and added to the residual stream."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        """One layer's weights."""
        self.norm1 = nnx.RMSNorm(config.dim, rngs=rngs)
        self.attention = Attention(config.dim, config.heads, rngs=rngs)
        self.norm2 = nnx.RMSNorm(config.dim, rngs=rngs)
        self.mlp = GatedMLP(config.dim, config.hidden or 3 * config.dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """The residual stream `x` [batch, length, dim] after this layer."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nnx.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs) -> None:
        """One kernel makes queries, keys and values."""
        self.heads = heads
        self.qkv = nnx.Linear(dim, 3 * dim, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(dim, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """What each position reads, [batch, length, dim], from those up to itself."""
        batch, length, dim = x.shape
        q, k, v = jnp.split(self.qkv(x).reshape(batch, length, self.heads, -1), 3, axis=-1)
        scores = jnp.einsum("bqhd,bkhd->bhqk", rotate(q), rotate(k)) / q.shape[-1] ** 0.5
        seen = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        read = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return self.out(read.reshape(batch, length, dim))


class GatedMLP(nnx.Module):
    """`down(silu(gate(x)) · up(x))`."""

    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        """Three kernels without biases."""
        self.gate = nnx.Linear(dim, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(dim, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """The same shape as `x` [..., dim]."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


def rotate(x: Array, base: float = 10_000.0) -> Array:
    """`x` [batch, length, heads, width], each pair of features turned by its position's angle.

    Pair i turns by base^(-2i/width) radians for each position, so that the product of a query
    and a key depends on how far apart they are and not on where.

    Source: Su et al. 2021, "RoFormer", section 3.4.2.
    """
    length, pairs = x.shape[1], x.shape[-1] // 2
    angles = jnp.arange(length)[:, None] * base ** (-jnp.arange(pairs) / pairs)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
