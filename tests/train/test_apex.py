"""Apex's levels: what they say, that it needs no jax, and what training under them does."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precis.optim import loss_scale_like, state_of
from precis.policy import get_policy
from precis.train import Recipe, apex_level, make_optimizer, make_step

LEVELS = {
    "O0": ("p=f32,c=f32,o=f32", "none", "none"),
    "O1": ("p=f32,c=f16,o=f32", "apex", "none"),
    "O2": ("p=f16,c=f16,o=f32", "apex", "f32"),
    "O3": ("p=f16,c=f16,o=f32,m=f16,v=f16", "static:1", "none"),
}


def test_it_needs_no_jax():
    program = "import precis.train.apex as a, sys; a.apex_level('O1'); print('jax' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.strip() == "False", ran.stderr


@pytest.mark.parametrize("name", LEVELS)
def test_a_level_is_a_policy_and_a_recipe(name):
    policy, recipe = apex_level(name)
    assert (str(policy), recipe.loss_scale, recipe.master) == LEVELS[name]


def test_another_level_is_refused():
    with pytest.raises(ValueError, match="Apex has no level 'o1'; did you mean 'O1'"):
        apex_level("o1")


FAR = 5.0  # where float16 has steps of 2^-8, and Adam's of 1e-3 are lost


def problem():
    x = jax.random.normal(jax.random.key(0), (32, 6))
    return {"w": jnp.full((6, 3), FAR)}, {"x": x, "y": jnp.zeros((32, 3))}


def loss(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def run(policy, recipe):
    """The state after 20 steps, with the loss and its scale in each."""
    optimizer = make_optimizer(recipe, 20)
    step = make_step(loss, optimizer, policy, loss_scale=recipe.loss_scale, master=recipe.master)
    params, batch = problem()
    state, seen = step.init(params), []
    for _ in range(20):
        state, metrics = step(state, batch)
        seen.append((float(metrics["loss"]), float(metrics.get("loss_scale", 0))))
    return state, np.array(seen)


TRAINED = ("O1", "O2", "O3")


@pytest.fixture(scope="module")
def trained():
    return {name: run(*apex_level(name)) for name in TRAINED}


def dtypes(tree):
    return {x.dtype.name for x in jax.tree.leaves(tree) if x.size > 1}


def test_o0_is_float32():
    policy, recipe = apex_level("O0")
    assert policy == get_policy("f32")
    assert recipe == Recipe(loss_scale="none")


def test_o1_keeps_parameters_and_moments_in_float32_and_scales(trained):
    state, seen = trained["O1"]
    assert dtypes((state.params, state.opt_state)) == {"float32"}
    assert seen[0, 1] == float(loss_scale_like("apex").value) == 2.0**16
    assert seen[-1, 0] < seen[0, 0]
    # From 5 on, Adam's 20 steps of about 1e-3.
    np.testing.assert_allclose(state.params["w"], FAR - 0.02, atol=1e-3)


def test_o2_learns_by_its_master_what_o3_loses(trained):
    state, seen = trained["O2"]
    assert dtypes(state.params) == {"float16"}
    assert dtypes(state.opt_state) == {"float32"}
    assert seen[0, 1] == 2.0**16
    # Its gradients are float16, so that the first scales overflow. Each other step is of 1e-3, and
    # what is stored is the master's nearest float16.
    applied = int(state_of(state.opt_state).applied)
    assert 10 < applied < 20
    wanted = FAR - 1e-3 * applied
    np.testing.assert_allclose(np.float32(state.params["w"]), wanted, atol=2.0**-9 + 1e-4)


def test_batchnorm_stays_in_float32_by_a_rule():
    policy, recipe = apex_level("O2")
    optimizer = make_optimizer(recipe, 20)
    rules = f"{policy}; bn/*: p=f32"
    step = make_step(
        lambda params, x: jnp.mean(x @ params["w"] * params["bn"]["scale"]),
        optimizer,
        rules,
        loss_scale=recipe.loss_scale,
        master=recipe.master,
    )
    state = step.init({"w": jnp.ones((3, 2)), "bn": {"scale": jnp.ones(2)}})
    state, _ = step(state, jnp.ones((4, 3)))
    assert state.params["w"].dtype == jnp.float16
    assert state.params["bn"]["scale"].dtype == jnp.float32


def test_o3_is_float16_throughout_and_stalls(trained):
    state, seen = trained["O3"]
    assert dtypes((state.params, state.opt_state)) == {"float16"}
    assert set(seen[:, 1]) == {1.0}
    assert (state.params["w"] == FAR).all()
