"""`docs/quantize.md`: every line of its code runs."""

import re
from pathlib import Path

import jax
import numpy as np

from precis.models import MLP

PAGE = (Path(__file__).parents[2] / "docs" / "quantize.md").read_text()


def test_the_code_of_the_page_runs(capsys):
    x = jax.random.normal(jax.random.key(0), (8, 64))
    model = MLP(hidden=(64, 64), classes=64)
    params = jax.jit(model.init)(jax.random.key(1), x)["params"]
    exact = model.apply({"params": params}, x)
    names = {"model": model, "params": params, "x": x}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
        out = jax.jit(names["fn"])(names["qparams"], x)
        assert np.mean(np.square(out - exact)) < 0.01 * np.mean(np.square(exact))
    assert float(capsys.readouterr().out.split()[0]) > 30
