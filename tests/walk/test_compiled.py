"""What compiled programs ran, against what was asked for, as JAX's own trace has it."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from precis.ops.cpu import HAS_FAST_PRODUCTS
from precis.train import audit_task, load_task
from precis.walk import audit, autocast, equations
from precis.walk.account import product_text

PARAMS = {name: jnp.ones((64, 64)) for name in ("a", "b")}
X = jnp.ones((32, 64))


def loss(params, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]))


def unordered(product):
    """A product as text, whichever operand comes first: JAX decides it for derivatives."""
    operands, _, out = product.partition("→")
    return (*sorted(operands.split("·")), out)


def asked(jaxpr, outer=""):
    """(is backward, product, full precision) of each dot of a trace, as on an NVIDIA GPU."""
    for eqn in jaxpr.eqns:
        scope = outer + equations.scope_of(eqn)
        if eqn.primitive.name == "dot_general":
            text = product_text(*(str(v.aval.dtype) for v in (*eqn.invars, *eqn.outvars)))
            yield "transpose(" in scope, unordered(text), "HIGHEST" in str(eqn.params["precision"])
        bodies, platforms = equations.bodies_of(eqn), equations.platforms_of(eqn)
        if platforms is not None:
            named = [i for i, names in enumerate(platforms) if names and "cuda" in names]
            bodies = [bodies[named[0] if named else platforms.index(None)]]
        for body in bodies:
            yield from asked(body, scope)


@pytest.mark.world
@pytest.mark.parametrize(
    "policy",
    ["f32", "mixed_bf16", "mixed_f16", "tf32", "int8", "int8_forward", "fp8_hybrid", "mxfp8",
     "nvfp4", "c=int4,x=bf16", "c=bf16,k=int8", "c=f16,k=bf16", "c=e4m3fn,g=int8", "c=f32,k=bf16",
     "c=int8,g=e5m2@tensor", "c=e4m3fn,g=e5m2", "c=e5m2@tensor,x=bf16", "c=bf16,g=e5m2",
     "c=int8,gx=int8,gw=bf16", "c=int8,gx=bf16,gw=int8", "c=tf32,k=bf16,x=f32",
     "c=tf32,g=f32,x=f32"],
)  # fmt: skip
def test_what_is_claimed_is_what_is_asked_of_the_backend(policy):
    audited = audit(loss, PARAMS, X, policy=policy).sites
    jaxpr = jax.make_jaxpr(jax.grad(autocast(loss, policy), (0, 1)))(PARAMS, X)
    found = set(asked(jaxpr.jaxpr))
    full = lambda site: site.precision == "HIGHEST" or site.on_cuda != site.product  # noqa: E731
    claimed = {(False, unordered(site.on_cuda), full(site)) for site in audited}
    assert {item for item in found if not item[0]} == claimed
    backward = set(map(unordered, audited[0].backward_on_cuda))
    assert {item[1] for item in found if item[0]} == backward


def ran(fn, params, x, policy="mixed_bf16"):
    report = audit(fn, params, x, policy=policy, compiled=True)
    return report.ran, {(f.kind, f.where, f.what) for f in report.findings}


@pytest.mark.skipif(not HAS_FAST_PRODUCTS, reason="integer products since jax 0.10")
@pytest.mark.parametrize(
    ("switched", "dx"), [("gx=int8,gw=bf16", True), ("gx=bf16,gw=int8", False)]
)
def test_each_backward_product_runs_in_integers_by_its_own_switch(switched, dx):
    pull = jax.grad(autocast(lambda w, x: jnp.sum(x @ w), f"c=int8,{switched}"), (0, 1))
    # Sides of their own: dx is [32, 64], dw [64, 48], and the forward product [32, 48].
    hlo = jax.jit(pull).lower(jnp.ones((64, 48)), X).compile().as_text()
    dots = re.findall(r"= (\w+)\[(\d+,\d+)\]\S* dot\(", hlo)
    ran = {shape: dtype for dtype, shape in dots}
    assert ran["32,64"] == ("s32" if dx else "f32")
    assert ran["64,48"] == ("f32" if dx else "s32")


@pytest.mark.world
def test_a_forward_product_computed_anew_is_a_forward_product():
    found, _ = ran(lambda p, x: jax.checkpoint(loss)(p, x), PARAMS, X)
    assert sum(found["b"].backward.values()) == 2  # of the activation, of the weight
    assert sum(found["a"].backward.values()) == 1  # no gradient of the input is asked for


@pytest.mark.world
def test_a_product_without_a_name_is_given_to_nobody():
    # XLA turns the gradient of a convolution with one image a channel into another one, nameless.
    def convolved(w, x):
        return jnp.sum(lax.conv_general_dilated(x, w, (1, 1), "SAME") ** 2)

    w, x = jnp.ones((8, 3, 3, 3)), jnp.ones((2, 3, 16, 16))
    report = audit(convolved, w, x, policy="f32", compiled=True)
    assert report.ran[""].forward == {"f32·f32→f32": 1}
    assert report.ran[""].backward == {}
    (unnamed,) = (f for f in report.findings if f.kind == "unnamed")
    assert unnamed.what.startswith("1 ran f32·f32→f32, without the name")


@pytest.mark.skipif(not HAS_FAST_PRODUCTS, reason="integer convolutions since jax 0.10")
def test_a_backward_pass_that_ran_otherwise_is_found_where_the_forward_pass_did_not():
    # The gradient of a strided convolution's input dilates, and CPU has that for floats alone.
    with jax.numpy_dtype_promotion("standard"):  # flax relies on it
        report = audit_task(load_task("digits", "cnn"), "int8", compiled=True)
    found = report.ran["conv2/kernel"]
    assert set(found.forward) == {"int8·int8→int32"}
    (widened,) = (f for f in report.findings if f.where == "conv2/kernel")
    assert (widened.kind, widened.what.partition(", ran ")[0]) == (
        "widened",
        "claimed int8·int8→int32 backward",
    )
    assert "f32·f32→f32" in widened.what


def test_programs_that_differ_in_names_alone_are_told_apart():
    # The tests run with JAX's cache on disk, which does not look at the names of ops.
    for name in ("first", "second"):
        fn = lambda p, x, name=name: jnp.tanh(x @ p[name])  # noqa: E731
        report = audit(fn, {name: jnp.ones((64, 24))}, X, policy="bf16", compiled=True)
        (site,) = report.record()["sites"]
        assert site["path"] == name
        assert sum(site["ran"]["forward"].values()) == 1
