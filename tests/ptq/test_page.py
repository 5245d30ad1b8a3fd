"""`docs/quantize.md`: every line of its code runs."""

import re
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from precis.models import MLP
from precis.tree import leaves_with_paths

PAGE = (Path(__file__).parents[2] / "docs" / "quantize.md").read_text()


def test_the_code_of_the_page_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    x = jax.random.normal(jax.random.key(0), (8, 64))
    model = MLP(hidden=(64, 64), classes=64)
    params = jax.jit(model.init)(jax.random.key(1), x)["params"]
    save_file({path: np.asarray(x) for path, x in leaves_with_paths(params)}, "float.safetensors")
    exact = model.apply({"params": params}, x)
    names = {"model": model, "params": params, "x": x}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 7
    for block in blocks:
        exec(block, names)
        out = jax.jit(names["fn"])(names["qparams"], x)
        assert np.mean(np.square(out - exact)) < 0.01 * np.mean(np.square(exact))
    assert float(capsys.readouterr().out.split()[0]) > 30
    assert names["done"].formats == {
        "Dense_0/kernel": "int8@channel",
        "Dense_1/kernel": "int8@channel",
        "Dense_2/kernel": "nf4@block64",
    }
