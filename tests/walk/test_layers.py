"""Every layer class of flax that holds a dot or a convolution, an Equinox model, plain functions.

Under f32 each gives what it gives without, and under bf16 all of its products are in force, and
values and gradients are near. `UNSUPPORTED` says which layers are not; it is empty.
"""

import inspect

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.dtypes import float0

from precis.adapters import bind
from precis.walk import audit, autocast

from .laws import UNOPTIMIZED, assert_same, compiled

UNSUPPORTED: dict[str, str] = {}

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


# One of each kind by day, all of them by night.
DAILY = {"Conv strided and grouped", "LSTMCell", "SpectralNorm", "MultiHeadAttention", "LoRALinear"}


def cases():
    for case, names in ((linen_case, LINEN), (nnx_case, NNX), (other_case, OTHERS)):
        for name in names:
            marks = () if name in DAILY or case is other_case else pytest.mark.nightly
            yield pytest.param(case, name, id=f"{case.__name__} {name}", marks=marks)


@pytest.mark.parametrize(("case", "name"), list(cases()))
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


@pytest.mark.nightly
@pytest.mark.parametrize(("case", "name"), list(cases()))
def test_emulated_formats_equal_native_ones_through_a_layer(case, name):
    with jax.numpy_dtype_promotion("standard"):
        run, params, x = case(name)
        loss = lambda p, x: jnp.mean(run(p, x) ** 2)  # noqa: E731
        native, emulated = (
            compiled(
                jax.value_and_grad(autocast(loss, f"c={c},o=f32"), allow_int=True), UNOPTIMIZED
            )(params, x)
            for c in ("bf16", "e8m7")
        )
    floats = lambda tree: [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != float0]  # noqa: E731
    assert_same(floats(emulated), floats(native))


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
