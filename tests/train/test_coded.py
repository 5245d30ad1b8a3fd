"""Training weights that are stored as codes: their gradients, their step, and what is refused."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precis.ops.cpu import HAS_FAST_PRODUCTS
from precis.optim import stored_params
from precis.quant import QTensor, dequantize, is_stored
from precis.train import audit_task, load_task, make_evaluate, make_step, value_and_grad
from precis.train.recipe import Recipe, as_data

DIM = 32


def problem():
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "embed": {"embedding": jax.random.normal(keys[0], (16, DIM))},
        "layers": {"kernel": jax.random.normal(keys[1], (3, DIM, DIM)) / 6},
        "head": {"kernel": jax.random.normal(keys[2], (DIM, 4)) / 6, "bias": jnp.zeros(4)},
    }
    batch = {
        "x": jax.random.randint(keys[3], (24,), 0, 16),
        "y": jax.random.normal(keys[4], (24, 4)),
    }
    return params, batch


def loss(params, batch, *, is_turned=False):
    def layer(h, w):
        return h + jnp.tanh(h @ (w.T if is_turned else w)), None

    h, _ = jax.lax.scan(layer, params["embed"]["embedding"][batch["x"]], params["layers"]["kernel"])
    out = h @ params["head"]["kernel"] + params["head"]["bias"]
    return jnp.mean((out - batch["y"]) ** 2)


def test_the_gradient_of_codes_is_that_of_the_floats_that_they_stand_for():
    # With a rule that names it, the table of rows that are looked up is stored as codes, too.
    params, batch = problem()
    text = "p=int8,c=f32,o=f32; embed/embedding: p=int8"
    stored = stored_params(text, params)
    assert all(map(is_stored, jax.tree.leaves(stored, is_leaf=is_stored)[:1]))
    turned = functools.partial(loss, is_turned=True)
    value, grads = jax.jit(value_and_grad(turned, text))(stored, batch)
    want, wide = jax.jit(jax.value_and_grad(turned))(dequantize(stored), batch)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(wide), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=float(jnp.abs(b).max()) * 2.0**-18)
    coarse_text = text.replace("o=f32", "o=f32,w=bf16")
    _, coarse = jax.jit(value_and_grad(turned, coarse_text))(stored, batch)
    for a in jax.tree.leaves(coarse):
        np.testing.assert_array_equal(a, a.astype(jnp.bfloat16).astype(jnp.float32))


POLICIES = [
    ("p=int8,o=f32,gx=int8(stochastic),gw=bf16", "stochastic"),
    pytest.param("p=int4@channel,c=bf16,o=f32", "f32", marks=pytest.mark.nightly),
    pytest.param("p=int8,o=f32", "f32", marks=pytest.mark.nightly),
    pytest.param("p=int8,o=f32", "stochastic", marks=pytest.mark.nightly),
    pytest.param("f32; layers/**: p=nf4@block32", "f32", marks=pytest.mark.nightly),
]


@pytest.mark.world
@pytest.mark.parametrize(("policy", "master"), POLICIES)
def test_stored_weights_learn(policy, master):
    params, batch = problem()
    step = make_step(loss, optax.adam(1e-2), policy, master=master, clip=1.0)
    state, losses = step.init(params), []
    for _ in range(40):
        state, metrics = step(state, batch, jax.random.key(7))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.25 * losses[0]
    assert isinstance(state.params["layers"]["kernel"], QTensor)
    assert float(metrics["update_lost"]) < 0.01


def test_parts_of_a_batch_and_of_the_parameters():
    params, batch = problem()
    how = {"accumulate": 2, "trainable": ["layers/**", "head/bias"]}
    step = make_step(loss, optax.adam(1e-2), "p=int8,o=f32", master="f32", **how)
    state = step.init(params)
    after, _ = step(state, batch)
    assert list(state.opt_state.kept) == ["layers/kernel"]
    same = lambda a, b: all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))  # noqa: E731
    assert same(after.params["embed"], state.params["embed"])
    assert same(after.params["head"]["kernel"], state.params["head"]["kernel"])
    assert not same(after.params["layers"], state.params["layers"])


@pytest.mark.skipif(not HAS_FAST_PRODUCTS, reason="integer products since jax 0.10")
def test_a_step_reads_the_codes_as_they_are_stored():
    params, batch = problem()
    step = make_step(loss, optax.sgd(1e-2), "p=int8,o=f32", master="stochastic")
    hlo = step.update.lower(step.init(params), batch, None).compile().as_text()
    assert set(re.findall(r"= (\w+)\[[\d,]*\]\S* dot\(", hlo)) == {"s32"}
    # What loops over layers carries: forward the codes, backward codes and gradients; at no time
    # the weights as floats, nor the zeros by which they are differentiated.
    loops = [line.partition(" while(")[0] for line in hlo.splitlines() if " while(" in line]
    stacks = [re.findall(rf"(\w+)\[3,{DIM},{DIM}\]", loop) for loop in loops]
    assert sorted(sorted(stack) for stack in stacks if stack) == [["f32", "s8"], ["s8"]]


def test_nearest_without_a_master_is_refused_with_the_reason():
    for master, why in (("none", "weights would hardly learn"), ("kahan", "is no code")):
        with pytest.raises(ValueError, match=f"p=int8 with master='{master}': .*{why}; choose"):
            make_step(loss, optax.adam(1e-2), "f32; layers/**: p=int8", master=master)


def test_a_weight_in_few_bits_that_the_policy_does_not_store_is_frozen_or_refused():
    params, batch = problem()
    given = stored_params("p=int8", params)
    with pytest.raises(ValueError, match=r"head/kernel is a QTensor, .* p=f32: .*trainable"):
        make_step(loss, optax.adam(1e-2), "f32").init(given)
    step = make_step(loss, optax.adam(1e-2), "f32", trainable=["**/bias"])
    after, _ = step(step.init(given), batch)
    assert isinstance(after.params["head"]["kernel"], QTensor)


def test_an_audit_of_a_task_has_its_weights_as_they_are_stored():
    found = audit_task(load_task("digits", "mlp"), "p=int8,gx=bf16,o=f32", compiled=True)
    site = found.record()["sites"][1]
    assert (site["operands"], site["product"]) == ("int8·int8@channel", "int8·int8→int32")
    assert site["reason"].endswith("stored as int8@channel: its codes multiply")
    if HAS_FAST_PRODUCTS:
        assert set(site["ran"]["backward"]) == {"bf16·bf16→f32"} <= set(site["backward"])


def test_a_recipe_of_it_comes_back():
    recipe = Recipe(master="stochastic", optimizer="sgd")
    assert Recipe(**as_data(recipe)) == recipe


def test_evaluation_takes_the_codes_as_they_are():
    class Once:
        metric = ("loss", "min")
        loss = staticmethod(lambda p, s, b, *, key, train: (loss(p, b), (s, {})))
        eval_batches = staticmethod(lambda: [problem()[1]])

    params, batch = problem()
    stored = stored_params("p=int8", params)
    for given in (params, stored):
        found = make_evaluate(Once, "p=int8,c=f32,o=f32")(given, ())["eval_loss"]
        np.testing.assert_allclose(found, loss(dequantize(stored), batch), rtol=1e-6)
    found = make_evaluate(Once, "f32")(stored, ())["eval_loss"]
    np.testing.assert_allclose(found, loss(dequantize(stored), batch), rtol=1e-6)
