"""Every layer class of flax with a dot or a convolution, an Equinox model, plain functions."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from precis.adapters import bind

ROW = (4, 16)
SEQUENCE = (2, 6, 16)
IMAGE = (2, 8, 8, 4)
KEY = jax.random.key(0)


class Cell(nn.Module):
    """A recurrent cell over a sequence."""

    cell: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.RNN(self.cell)(x)


class Tied(nn.Module):
    @nn.compact
    def __call__(self, x):
        table = nn.Embed(11, 16)
        return table.attend(x + table(jnp.arange(6)))


class Normed(nn.Module):
    norm: type
    arguments: tuple = ()

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(8)
        if self.norm in (nn.WeightNorm, nn.SpectralNorm):
            return self.norm(layer)(x, **dict(self.arguments))
        return nn.Dense(3)(self.norm(*self.arguments)(layer(x)))


LINEN = {
    "Dense": (nn.Dense(8), ROW),
    "DenseGeneral": (nn.DenseGeneral((4, 2), axis=(-2, -1)), SEQUENCE),
    "Einsum": (nn.Einsum((16, 4, 2), "bti,iho->btho"), SEQUENCE),
    "Conv": (nn.Conv(6, (3, 3)), IMAGE),
    "Conv strided and grouped": (nn.Conv(8, (3, 3), strides=2, feature_group_count=4), IMAGE),
    "ConvTranspose": (nn.ConvTranspose(6, (3, 3), strides=(2, 2)), IMAGE),
    "ConvLocal": (nn.ConvLocal(6, (3, 3)), IMAGE),
    "Embed": (Tied(), SEQUENCE),
    "MultiHeadDotProductAttention": (nn.MultiHeadDotProductAttention(num_heads=4), SEQUENCE),
    "SelfAttention": (nn.SelfAttention(num_heads=4), SEQUENCE),
    "SimpleCell": (Cell(nn.SimpleCell(8)), SEQUENCE),
    "LSTMCell": (Cell(nn.LSTMCell(8)), SEQUENCE),
    "OptimizedLSTMCell": (Cell(nn.OptimizedLSTMCell(8)), SEQUENCE),
    "GRUCell": (Cell(nn.GRUCell(8)), SEQUENCE),
    "MGUCell": (Cell(nn.MGUCell(8)), SEQUENCE),
    "ConvLSTMCell": (Cell(nn.ConvLSTMCell(3, (3, 3))), (2, 3, 8, 8, 4)),
    "RNN": (nn.RNN(nn.GRUCell(8), reverse=True), SEQUENCE),
    "Bidirectional": (nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(4))), SEQUENCE),
    "LayerNorm": (Normed(nn.LayerNorm), SEQUENCE),
    "RMSNorm": (Normed(nn.RMSNorm), SEQUENCE),
    "GroupNorm": (Normed(nn.GroupNorm, (4,)), SEQUENCE),
    "InstanceNorm": (Normed(nn.InstanceNorm), SEQUENCE),
    "BatchNorm": (Normed(nn.BatchNorm, (True,)), SEQUENCE),
    "WeightNorm": (Normed(nn.WeightNorm), SEQUENCE),
    "SpectralNorm": (Normed(nn.SpectralNorm, (("update_stats", False),)), SEQUENCE),
}

RNGS = nnx.Rngs(0)


class NnxTied(nnx.Module):
    def __init__(self):
        self.table = nnx.Embed(11, 16, rngs=RNGS)

    def __call__(self, x):
        return self.table.attend(x + self.table(jnp.arange(6)))


class NnxNormed(nnx.Module):
    def __init__(self, norm):
        self.dense, self.norm, self.head = (
            nnx.Linear(16, 8, rngs=RNGS),
            norm,
            nnx.Linear(8, 3, rngs=RNGS),
        )

    def __call__(self, x):
        return self.head(self.norm(self.dense(x)))


NNX = {
    "Linear": (lambda: nnx.Linear(16, 8, rngs=RNGS), ROW),
    "LinearGeneral": (
        lambda: nnx.LinearGeneral((6, 16), (4, 2), axis=(-2, -1), rngs=RNGS),
        SEQUENCE,
    ),
    "Einsum": (lambda: nnx.Einsum("bti,iho->btho", (16, 4, 2), rngs=RNGS), SEQUENCE),
    "Conv": (lambda: nnx.Conv(4, 6, (3, 3), rngs=RNGS), IMAGE),
    "ConvTranspose": (lambda: nnx.ConvTranspose(4, 6, (3, 3), strides=(2, 2), rngs=RNGS), IMAGE),
    "Embed": (NnxTied, SEQUENCE),
    "MultiHeadAttention": (
        lambda: nnx.MultiHeadAttention(4, 16, 16, decode=False, rngs=RNGS),
        SEQUENCE,
    ),
    "SimpleCell": (lambda: nnx.RNN(nnx.SimpleCell(16, 8, rngs=RNGS)), SEQUENCE),
    "LSTMCell": (lambda: nnx.RNN(nnx.LSTMCell(16, 8, rngs=RNGS)), SEQUENCE),
    "OptimizedLSTMCell": (lambda: nnx.RNN(nnx.OptimizedLSTMCell(16, 8, rngs=RNGS)), SEQUENCE),
    "GRUCell": (lambda: nnx.RNN(nnx.GRUCell(16, 8, rngs=RNGS)), SEQUENCE),
    "LoRA": (lambda: nnx.LoRA(16, 2, 8, rngs=RNGS), ROW),
    "LoRALinear": (lambda: nnx.LoRALinear(16, 8, lora_rank=2, rngs=RNGS), ROW),
    "LayerNorm": (lambda: NnxNormed(nnx.LayerNorm(8, rngs=RNGS)), SEQUENCE),
    "RMSNorm": (lambda: NnxNormed(nnx.RMSNorm(8, rngs=RNGS)), SEQUENCE),
    "GroupNorm": (lambda: NnxNormed(nnx.GroupNorm(8, 4, rngs=RNGS)), SEQUENCE),
    "BatchNorm": (
        lambda: NnxNormed(nnx.BatchNorm(8, use_running_average=True, rngs=RNGS)),
        SEQUENCE,
    ),
}


class Mlp(eqx.Module):
    layers: list
    norm: eqx.nn.LayerNorm

    def __init__(self, key):
        a, b, c = jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Linear(16, 8, key=a),
            eqx.nn.MLP(8, 4, 8, 1, key=b),
            eqx.nn.Linear(4, 3, key=c),
        ]
        self.norm = eqx.nn.LayerNorm(8)

    def __call__(self, x):
        first, mlp, last = self.layers
        return last(mlp(self.norm(jax.nn.gelu(first(x)))))


def gathered_experts(params, x):
    """A mixture of experts: each row's two experts are gathered and weighted."""
    gates = jax.nn.softmax(x @ params["router"])
    weights, chosen = lax.top_k(gates, 2)
    hidden = jnp.einsum("ni,nkio->nko", x, params["experts"][chosen])
    return jnp.einsum("nko,nk->no", hidden, weights)


def sorted_experts(params, x):
    """The same by sorting rows and a ragged dot."""
    expert = jnp.argmax(x @ params["router"], -1)
    order = jnp.argsort(expert)
    out = lax.ragged_dot(x[order], params["experts"], jnp.bincount(expert, length=3))
    return jnp.zeros_like(out).at[order].set(out)


def plain_mlp(params, x):
    return jnp.tanh(x @ params["router"]) @ params["router"].T


OTHERS = ("equinox", "gathered", "sorted", "mlp")


def linen_case(name):
    module, shape = LINEN[name]
    x = jax.random.normal(KEY, shape)
    variables = module.init(jax.random.key(1), x)
    mutable = [name for name in variables if name != "params"]

    def run(variables, x):
        out = module.apply(variables, x, mutable=mutable or False)
        return out[0] if mutable else out

    return run, variables, x


def nnx_case(name):
    make, shape = NNX[name]
    params, state, apply = bind(make())
    run = lambda params, x: apply(params, state, x, key=KEY)[0]  # noqa: E731
    return run, params, jax.random.normal(KEY, shape)


def other_case(name):
    x = jax.random.normal(KEY, (8, 16))
    if name == "equinox":
        arrays, static = eqx.partition(Mlp(jax.random.key(1)), eqx.is_array)
        return lambda a, x: jax.vmap(eqx.combine(a, static))(x), arrays, x
    keys = jax.random.split(jax.random.key(1))
    params = {
        "router": jax.random.normal(keys[0], (16, 3)),
        "experts": jax.random.normal(keys[1], (3, 16, 4)),
    }
    return (
        {"gathered": gathered_experts, "sorted": sorted_experts, "mlp": plain_mlp}[name],
        params,
        x,
    )


def cases(daily):
    """All layers of all kinds; those that are not in `daily` by night."""
    for case, names in ((linen_case, LINEN), (nnx_case, NNX), (other_case, OTHERS)):
        for name in names:
            marks = () if name in daily else pytest.mark.nightly
            yield pytest.param(case, name, id=f"{case.__name__} {name}", marks=marks)
