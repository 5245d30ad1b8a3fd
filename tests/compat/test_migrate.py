"""Every line of code in `docs/migrate.md` runs, every name in its table exists, figures hold."""

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
import pytest
from flax.training import dynamic_scale

import precis
import precis.optim
import precis.train
from precis.optim import loss_scale_like

PAGE = (Path(__file__).parents[2] / "docs" / "migrate.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| ---")
]


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))


def model(params, x):
    return jnp.mean((x @ params["w"] - 1) ** 2)


@pytest.fixture(scope="module")
def blocks():
    """The names that each block leaves, run one after the other as a reader would."""
    names = {"jax": jax, "jnp": jnp, "optax": optax, "precis": precis}
    names |= {"model": model, "module": Normed(), "x": jnp.ones((8, 3))}
    left = []
    for block in BLOCKS:
        names["params"] = {"w": jnp.zeros((3, 2))}
        exec(block, names)
        left.append(dict(names))
    return left


def test_by_jmps_names(blocks):
    # Of 0.1 times a gradient of -1, computed in float16.
    np.testing.assert_allclose(blocks[0]["params"]["w"], 0.1, rtol=2.0**-10)
    assert int(blocks[0]["loss_scale"].counter) == 1
    assert not re.search(r"precis(?!\.compat import jmp)", BLOCKS[0])


def test_moved_over(blocks):
    first, loop = blocks[1], blocks[2]
    assert float(first["metrics"]["loss_scale"]) == float(loop["opt_state"].scale.value) == 2**15
    for w in (first["state"].params["w"], loop["params"]["w"]):
        np.testing.assert_allclose(w, 1e-3, rtol=1e-4)  # Adam's first step
    assert float(loop["loss"]) == 1.0
    assert int(loop["opt_state"].applied) == 1


def test_from_flax_optax_and_apex(blocks):
    assert bool(blocks[3]["metrics"]["finite"])
    assert set(blocks[3]["train_state"].state) != set()
    for update in jax.tree.leaves(blocks[4]["updates"]):
        assert np.isfinite(update).all()
    apex = blocks[5]
    assert apex["state"].params["w"].dtype == jnp.float16
    assert float(apex["metrics"]["loss_scale"]) == 2.0**16


def test_every_name_in_the_table_exists():
    heads = ROWS[0]
    assert heads[1:4] == ["jmp", "flax", "optax"]
    where = {
        1: [jmp, jmp.DynamicLossScale],
        2: [dynamic_scale],
        3: [optax],
        5: [precis, precis.optim, precis.train],
    }
    seen = 0
    for row in ROWS[1:]:
        for column, rooms in where.items():
            for name in re.findall(r"`(\w+(?:\.\w+)*)`", row[column]):
                last = name.split(".")[-1]
                if len(last) > 1 and last != "where":  # roles have one letter
                    assert any(hasattr(room, last) for room in rooms), (name, row)
                    seen += 1
    assert seen > 20


def test_the_figures_of_the_table():
    row = next(row for row in ROWS if row[0] == "begin with their numbers")
    jmps, flaxs, _, torchs, ours = row[1:]
    assert ours == "`loss_scale_like`"
    assert jmps == f"2^15, least {float(loss_scale_like('jmp').min):g}"
    assert flaxs == torchs == "2^16"
    values = [float(loss_scale_like(name).value) for name in ("jmp", "flax", "torch", "apex")]
    assert values == [2.0**15, 2.0**16, 2.0**16, 2.0**16]
    assert "between 2^-126 and 2^126" in PAGE
    torch = loss_scale_like("torch")
    assert (float(torch.min), float(torch.max)) == (2.0**-126, 2.0**126)
