"""The audit: counts by hand, findings by functions that have them and twins that have not."""

import json
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from precis.ops.cpu import HAS_FAST_PRODUCTS
from precis.train import audit_task, load_task
from precis.walk import Ran, audit

W = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8)), jnp.float32)


def kinds(fn, *args, policy="mixed_bf16", **kwargs):
    return {finding.kind for finding in audit(fn, *args, policy=policy, **kwargs).findings}


def test_flops_and_bytes_of_a_decoder():
    task = load_task("text")
    shapes, _ = jax.eval_shape(task.init, jax.random.key(0))
    batch, length = jax.tree.leaves(task.batch(0, 0))[0].shape
    tokens = batch * (length - 1)
    with jax.numpy_dtype_promotion("standard"):  # flax relies on it
        report = audit_task(task, "mixed_bf16")
    kernels = {"/".join(str(k.key) for k in path): leaf.shape
               for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}  # fmt: skip
    for audited in report.sites:
        shape = kernels.get(audited.site.path)
        if shape is None:
            continue
        layers, n = (shape[0], shape[1:]) if audited.site.path.startswith("layers") else (1, shape)
        assert audited.trips == layers
        assert audited.flops == 2 * tokens * np.prod(n) * layers
        rows, out = tokens * np.prod(audited.site.lhs[2:]), np.prod(audited.out)
        wide = 4 if str(audited.roles.out) == "f32" else 2
        assert audited.nbytes == (2 * rows + 2 * np.prod(n) + wide * out) * layers
    assert report.flops == sum(site.flops for site in report.sites)
    assert report.shares == {"bf16": 1.0}


class Linen(nn.Module):
    dtype: object = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, dtype=self.dtype)(nn.relu(nn.Dense(8, dtype=self.dtype)(x)))


class Nnx(nnx.Module):
    def __init__(self, dtype=None):
        self.a = nnx.Linear(8, 8, dtype=dtype, rngs=nnx.Rngs(0))
        self.b = nnx.Linear(8, 3, dtype=dtype, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.b(nnx.relu(self.a(x)))


def model_of(library, dtype):
    if library == "linen":
        module = Linen(dtype)
        return module.apply, module.init(jax.random.key(0), X)
    graph, state = nnx.split(Nnx(dtype))
    return lambda s, x: nnx.merge(graph, s)(x), nnx.to_pure_dict(state)


@pytest.mark.world
@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_a_model_pinned_to_bf16_under_f32(library):
    with jax.numpy_dtype_promotion("standard"):
        fn, params = model_of(library, jnp.bfloat16)
        pinned = audit(fn, params, X, policy="c=f32")
        overridden = audit(fn, params, X, policy="c=f32", pins="override")
    assert (pinned.in_force, pinned.pinned) == (0.0, 1.0)
    assert {f.kind for f in pinned.findings} >= {"pinned"}
    assert (overridden.in_force, overridden.pinned) == (1.0, 0.0)
    with pytest.raises(ValueError, match=r"holds for 0\.0% .*computes in bf16"):
        pinned.require(0.95)


@pytest.mark.world
@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_a_model_that_asks_for_float32_is_found_by_a_second_trace(library):
    with jax.numpy_dtype_promotion("standard"):
        found = [
            kinds(*model_of(library, dtype), X, policy="mixed_bf16")
            for dtype in (None, jnp.float32)
        ]
    assert found == [set(), {"pins f32"}]


@jax.custom_vjp
def fused(x, w):
    return x @ w


fused.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))


def low(x):
    return x.astype(jnp.bfloat16)


def across_devices(fn):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (P(), P("d")), "out_specs": P()}
    return lambda w, x: jax.shard_map(lambda w, x: fn(x @ w), mesh=mesh, **specs)(w, x)


CASES = {
    "cast pair": (
        lambda w, x: low(jnp.tanh(x)).astype(jnp.float32) @ w,
        lambda w, x: jnp.tanh(x) @ w,
        "f32",
    ),
    "redundant cast": (
        lambda w, x: low(jnp.tanh(x) * 2.0) @ low(w),
        lambda w, x: jnp.tanh(x) @ w,
        "c=bf16",
    ),
    "low-precision sum": (lambda w, x: jnp.sum(x @ w), lambda w, x: x @ w, "c=bf16,s=bf16"),
    "low-precision sum, across devices": (
        across_devices(lambda y: lax.psum(y, "d")),
        across_devices(lambda y: lax.pmax(y, "d")),
        "c=bf16,s=bf16",
    ),
    "low-precision island": (
        lambda w, x: jnp.exp(low(x @ w)),
        lambda w, x: jnp.exp(x @ w),
        "f32",
    ),
    "mixed operands": (lambda w, x: x @ w, lambda w, x: x @ x.T, "c=f16,k=bf16"),
    "mixed operands, one of them wide": (lambda w, x: x @ w, lambda w, x: x @ x.T, "c=f32,k=bf16"),
    "mixed operands in the model": (
        lambda w, x: lax.dot(x, low(w), preferred_element_type=jnp.float32),
        lambda w, x: lax.dot(low(x), low(w), preferred_element_type=jnp.float32),
        "f32",
    ),
    "opaque": (lambda w, x: fused(x, w), lambda w, x: x @ w, "c=bf16"),
    "uncounted": (
        lambda w, x: lax.while_loop(lambda c: jnp.max(c) < 0, lambda c: c @ w, x),
        lambda w, x: lax.fori_loop(0, 3, lambda i, c: c @ w, x),
        "c=bf16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_findings(kind):
    has, has_not, policy = CASES[kind]
    kind = kind.replace(" in the model", "").partition(",")[0]
    assert kind in kinds(has, W, X, policy=policy)
    assert kind not in kinds(has_not, W, X, policy=policy)


def test_opaque_flops_are_counted():
    report = audit(lambda w, x: fused(jnp.tanh(x @ w), w), W, X, policy="mixed_bf16")
    assert report.in_force == report.opaque == 0.5
    assert report.shares == {"opaque": 0.5, "bf16": 0.5}


def opaque(fn):
    """`fn` with a rule of its own, of which the walker sees nothing but the inside."""
    call = jax.custom_vjp(fn)
    call.defvjp(lambda *args: (fn(*args), None), lambda saved, g: (None, None))
    return call


def kernel(x, w, out):
    out[...] = x[...] @ w[...]


def tiled(x, w):
    rows = pl.BlockSpec((2, 8), lambda i: (i, 0))
    call = pl.pallas_call(
        kernel, jax.ShapeDtypeStruct((4, 8), jnp.float32), grid=(2,), interpret=True,
        in_specs=[rows, pl.BlockSpec((8, 8), lambda i: (0, 0))], out_specs=rows,
    )  # fmt: skip
    return call(x, w)


INSIDE = {
    "scan": (lambda x, w: lax.scan(lambda c, _: (c @ w, None), x, None, length=5)[0], 5, ""),
    "cond": (lambda x, w: lax.cond(x.any(), lambda x: x @ w, lambda x: x @ w @ w, x), 2, ""),
    "while": (lambda x, w: lax.while_loop(jnp.any, lambda c: c @ w, x), 1, "at least "),
    "pallas": (tiled, 1, ""),
}  # fmt: skip


@pytest.mark.world
@pytest.mark.parametrize("name", INSIDE)
def test_opaque_flops_are_counted_by_trips(name):
    fn, products, least = INSIDE[name]
    report = audit(lambda w, x: opaque(fn)(x, w), W, X, policy="mixed_bf16")
    assert report.opaque_flops == products * 2 * 4 * 8 * 8
    (finding,) = (f for f in report.findings if f.kind == "opaque")
    assert f"({least}{report.opaque_flops:,} matrix FLOPs)" in finding.what


def test_flops_of_fused_attention():
    batch, heads, length, width = 2, 4, 256, 128
    q = jax.ShapeDtypeStruct((batch, heads, length, width), jnp.float32)
    scale = jax.ShapeDtypeStruct((width,), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        report = audit(lambda w, q: flash_attention(q * w, q, q), scale, q, policy="mixed_bf16")
    assert report.opaque_flops == 2 * (2 * batch * heads * length * length * width)
    assert report.in_force == 0.0


def test_a_kernel_of_unknown_cost_is_named():
    fn = jax.ffi.ffi_call("anything", jax.ShapeDtypeStruct((4, 8), jnp.float32))
    report = audit(lambda w, x: opaque(fn)(x, w) @ w, W, X, policy="mixed_bf16")
    assert report.flops == 2 * 4 * 8 * 8
    assert report.notes == (
        "custom_vjp_call at top level: runs ffi_call as written; its FLOPs are not known",
    )


def test_of_branches_the_costliest_counts():
    def fn(w, x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ w, lambda x: (x @ w) @ w, x)

    report = audit(fn, W, X, policy="mixed_bf16")
    assert report.flops == 2 * 2 * 4 * 8 * 8
    assert sorted(site.trips for site in report.sites) == [0, 1, 1]
    assert any("the costliest is counted" in note for note in report.notes)


def loss(params, x):
    h = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["blocks"])[0]
    scores = jax.nn.softmax(h @ h.T)
    return jnp.sum((scores @ h) @ params["head"])


PARAMS = {"blocks": jnp.stack([W, W]), "head": W}
LARGE = {"blocks": jnp.ones((2, 64, 64)), "head": jnp.ones((64, 64))}


@pytest.mark.world
@pytest.mark.parametrize(
    ("policy", "claimed", "fast", "slow"),
    [
        ("int8", "int8·int8→int32", "int8·int8→int32", "int32·int32→int32"),
        ("mixed_bf16", "bf16·bf16→f32", "bf16·bf16→f32", "f32·f32→f32"),
        ("mixed_f16", "f16·f16→f32", "f32·f32→f32", "f32·f32→f32"),
        ("f32", "f32·f32→f32", "f32·f32→f32", "f32·f32→f32"),
    ],
)
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="says what CPU runs")
def test_what_really_ran(policy, claimed, fast, slow):
    report = audit(loss, LARGE, jnp.ones((32, 64)), policy=policy, compiled=True)
    ran = fast if HAS_FAST_PRODUCTS else slow
    assert set(report.ran) == {"blocks", "@dot0", "@dot1", "head"}
    for found in report.ran.values():
        assert found.claimed == (claimed,)
        assert list(found.forward) == list(found.backward) == [ran]
    widened = [f for f in report.findings if f.kind == "widened"]
    assert report.otherwise == 0.0
    assert bool(widened) is (ran != claimed)
    if widened:
        assert widened[0].what == f"claimed {claimed}, ran {ran}"


def test_what_ran_otherwise_is_a_share_of_the_flops():
    report = audit(loss, PARAMS, X, policy="int8")
    claimed = ("int8·int8→int32",)
    runs = {"head": "int4·int4→int32", "blocks": "int32·int32→int32"}
    ran = {path: Ran(claimed, (), {text: 1}, {}) for path, text in runs.items()}
    head = sum(site.flops for site in report.sites if site.site.path == "head")
    assert 0 < head < report.flops
    assert replace(report, ran=ran).otherwise == head / report.flops
    assert report.otherwise == 0.0


def test_what_is_not_in_the_program_is_said_to_be_missing():
    # The product's result is not used: XLA drops it.
    report = audit(lambda w, x: x * jnp.where(False, x @ w, 1.0), W, X, policy="mixed_bf16",
                   compiled=True)  # fmt: skip
    assert [f.where for f in report.findings if f.kind == "not found"] == ["the parameter"]


def test_a_record_is_json():
    report = audit(loss, PARAMS, X, policy="int8; head: c=bf16")
    record = json.loads(json.dumps(report.record()))
    assert record == report.record()
    head = record["sites"][-1]
    assert (head["path"], head["rule"], head["reason"]) == (
        "head",
        "head",
        "rule 'head'; feeds an island: handed over unrounded",
    )
    assert head["rhs"] == {
        "role": "kernel",
        "format": "bf16",
        "cotangent": "f32",
        "shape": [8, 8],
    }
    assert record["shares"] == report.shares
    assert sum(site["flops"] for site in record["sites"]) == record["flops"]
