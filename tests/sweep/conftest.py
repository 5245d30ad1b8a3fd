"""A task that compiles in a moment, and `precis` as a real process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LINE = '''
"""Least squares on a line: no library but JAX, and it counts how often it is traced."""
import jax, jax.numpy as jnp, numpy as np


class Line:
    name, metric, unit, facts = "line", ("eval_miss", "min"), "squares", {"points": 64}

    def __init__(self, spike=-1, raises_at=-1, dies_at=-1, traces=None):
        self.spike, self.raises_at, self.dies_at, self.traces = spike, raises_at, dies_at, traces

    def init(self, key):
        return {"w": jax.random.normal(key, (8,)), "b": jnp.zeros(())}, {}

    def batch(self, seed, step):
        if step == self.raises_at:
            raise RuntimeError(f"no batch at step {step}")
        if step == self.dies_at and seed == 1:
            import os
            os.abort()
        draw = np.random.default_rng([seed, step])
        x = draw.normal(size=(16, 8)).astype(np.float32)
        if step == self.spike:
            x[:] = np.inf
        return {"x": x, "y": x.sum(-1)}

    def loss(self, params, state, batch, *, key, train):
        if self.traces:
            with open(self.traces, "a") as file:
                file.write("traced")
        miss = jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)
        return miss, (state, {} if train else {"miss": miss})

    def eval_batches(self):
        return [self.batch(99, 10_000)]


def task(**options):
    return Line(**options)
'''


@pytest.fixture
def line(tmp_path):
    """Path of the file that defines the task."""
    path = tmp_path / "line.py"
    path.write_text(LINE)
    return path


@pytest.fixture
def precis(tmp_path):
    """Starts `precis` with arguments, in a folder of its own and a process group of its own."""

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "precis.cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "80"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start
