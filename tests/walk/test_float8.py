"""fp8 policies as CUDA gets them: which dots of a whole training step are float8."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import precis
from precis import audit, autocast
from precis.models import MLP
from precis.walk import Ran
from precis.walk.account import product_text
from tests.ops.lowered import dots_of, run_as_on_cuda
from tests.walk.models import (
    cross_entropy,
    decoder_batch,
    decoder_init,
    decoder_loss,
    mlp,
    mlp_init,
)

HIGHEST = {"HIGHEST"}


def shown(dots):
    return {f"{dot.lhs}·{dot.rhs}→{dot.out}" for dot in dots}


FLOAT8 = {"e4m3fn·e4m3fn→f32", "e5m2·e4m3fn→f32", "e4m3fn·e5m2→f32"}


def mlp_loss(params, batch):
    return cross_entropy(mlp(params, batch[0]), batch[1])


def rows():
    keys = jax.random.split(jax.random.key(2))
    return jax.random.normal(keys[0], (16, 24)), jax.random.randint(keys[1], (16,), 0, 10)


@pytest.mark.world
def test_a_training_step_multiplies_in_float8_on_cuda_and_in_bfloat16_elsewhere():
    model, (x, labels) = MLP(hidden=(80,), classes=10), rows()
    step = precis.make_step(
        lambda p, batch: cross_entropy(model.apply(p, batch[0]), batch[1]),
        optax.adam(1e-3),
        "fp8_hybrid",
        jit=False,
    )
    with jax.numpy_dtype_promotion("standard"):  # flax relies on it
        state = step.init(model.init(jax.random.key(0), x))
        on = {
            platform: dots_of(step.update, state, (x, labels), None, platform=platform)
            for platform in ("cuda", "cpu", "tpu")
        }
    # Two layers forward; two gradients of weights and one of an input backward.
    assert [len(dots) for dots in on.values()] == [5, 5, 5]
    assert shown(on["cuda"]) == FLOAT8
    assert {dot.precision for dot in on["cuda"]} == HIGHEST
    assert shown(on["tpu"]) == {"bf16·bf16→f32"}
    assert not any("e4m3fn" in dot or "e5m2" in dot for dot in on["cpu"])


@pytest.mark.world
def test_the_step_for_cuda_gives_the_same_loss_and_gradients():
    params, batch = mlp_init(jax.random.key(0)), rows()
    gradient = jax.value_and_grad(autocast(mlp_loss, "fp8_hybrid"))
    got, want = run_as_on_cuda(gradient, params, batch), jax.jit(gradient)(params, batch)
    for one, other in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        # Summed in another order, a sum may be rounded to the next bfloat16; no more.
        assert np.linalg.norm(one - other) <= 2.0**-9 * np.linalg.norm(other)


@pytest.mark.parametrize("layers", ["scan", pytest.param("remat", marks=pytest.mark.nightly)])
def test_a_scanned_decoder_has_no_other_product_left(layers):
    params, tokens = decoder_init(jax.random.key(0)), decoder_batch(jax.random.key(1))
    loss = autocast(lambda p, t: decoder_loss(p, t, layers=layers), "fp8_hybrid")
    found = dots_of(jax.value_and_grad(loss), params, tokens)
    assert shown(found) == FLOAT8
    # Six products of a layer and the head, each with two gradients.
    assert len(found) >= 3 * 7


@pytest.mark.world
def test_a_model_that_is_quantized_to_fp8():
    params, (x, _) = mlp_init(jax.random.key(0)), rows()
    fn, qparams = precis.quantize_model(mlp, params, "w8a8_fp8")
    assert shown(dots_of(fn, qparams, x)) == {"e4m3fn·e4m3fn→f32"}
    assert len(dots_of(fn, qparams, x)) == 2
    assert "e4m3fn·e4m3fn→f32" not in shown(dots_of(fn, qparams, x, platform="cpu"))
    want, got = mlp(params, x), jax.jit(fn)(qparams, x)
    assert np.mean(np.square(got - want)) < 0.003 * np.mean(np.square(want))
    # Weights alone in fp8 meet inputs in bfloat16.
    alone, qparams = precis.quantize_model(mlp, params, "e4m3fn")
    assert shown(dots_of(alone, qparams, x)) == {"bf16·bf16→f32"}


@pytest.mark.world
def test_inside_shard_map_and_under_vmap():
    params, (x, labels) = mlp_init(jax.random.key(0)), rows()
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))
    local = lambda p, x, y: jax.lax.pmean(mlp_loss(p, (x, y)), "d")  # noqa: E731
    specs = {"in_specs": (P(), P("d"), P("d")), "out_specs": P()}
    sharded = jax.shard_map(local, mesh=mesh, **specs)
    assert shown(dots_of(jax.grad(autocast(sharded, "fp8_hybrid")), params, x, labels)) == FLOAT8
    one = jax.grad(autocast(lambda p, x, y: mlp_loss(p, (x, y)), "fp8_hybrid"))
    each = jax.vmap(one, (None, 0, 0))
    halves = x.reshape(2, 8, 24), labels.reshape(2, 8)
    assert shown(dots_of(each, params, *halves)) == FLOAT8


@pytest.mark.world
def test_forward_mode():
    params, (x, _) = mlp_init(jax.random.key(0)), rows()
    plain = autocast(mlp, "c=e4m3fn,x=bf16,o=f32", forward_mode=True)
    assert shown(dots_of(plain, params, x)) == {"e4m3fn·e4m3fn→f32"}
    moved = lambda p, x: jax.jvp(plain, (p, x), (p, x))  # noqa: E731
    assert shown(dots_of(moved, params, x)) == {"e4m3fn·e4m3fn→f32", "bf16·bf16→f32"}


def test_the_audit_says_what_cuda_is_asked_for():
    site = audit(mlp, mlp_init(jax.random.key(0)), rows()[0], policy="fp8_hybrid").sites[0]
    assert (site.product, site.on_cuda) == ("bf16·bf16→f32", "e4m3fn·e4m3fn→f32")
    assert (site.backward, site.backward_on_cuda) == (("bf16·bf16→f32",), ("e5m2·e4m3fn→f32",))
    # Whichever operand comes first; float16 where a GPU has no float8.
    assert set(site.besides) == FLOAT8 | {"f16·f16→f32"}
    other = audit(mlp, mlp_init(jax.random.key(0)), rows()[0], policy="c=e5m2@tensor,x=bf16")
    assert {(s.on_cuda, s.besides) for s in other.sites} == {("bf16·bf16→f32", ())}


@pytest.mark.parametrize(
    ("ran", "is_otherwise"),
    [
        ("bf16·bf16→f32", False),
        ("f32·f32→f32", False),
        (product_text("float8_e4m3fn", "float8_e4m3fn", "float32"), False),
        ("f16·f16→f32", False),
        ("e5m2·e5m2→f32", True),
        ("int8·int8→int32", True),
    ],
)
def test_what_a_compiled_program_may_run_instead(ran, is_otherwise):
    report = audit(mlp, mlp_init(jax.random.key(0)), rows()[0], policy="fp8_hybrid")
    runs = {
        site.site.path: Ran((site.product,), site.backward, {ran: 1}, {}, site.besides)
        for site in report.sites
    }
    assert replace(report, ran=runs).otherwise == float(is_otherwise)
