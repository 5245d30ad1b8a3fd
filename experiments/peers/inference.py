"""How fast is a quantized model on a CPU, beside qwix and AQT?

    uv run --group peers python experiments/peers/inference.py > experiments/peers/inference.md

About 3 minutes. An MLP 1024-4096-1024, twice, on 512 tokens and on one; and a transformer (d 512,
2 layers, 8 heads, ffn 2048, 4×128 tokens). Weights in int8, inputs in int8 as well (W8A8) or in
float (weight-only). Figures are ratios to the same in float32 by plain flax, of CPU time of all
threads, which other jobs change least: medians of rounds that are interleaved in one process. The
error is that of the whole model's output. Expected, on a CPU with AMX and jax ≥ 0.10: W8A8 ≤ 0.20,
weight-only ≤ 0.40 at the same error, one token ≤ 0.6, ahead of every peer. Without AMX the figures
are not applicable; being ahead is.
Every program is compiled with JAX's caches cleared: qwix patches jax while it traces.
"""

import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import qwix
from aqt.jax.v2 import config as aqt_config
from aqt.jax.v2.flax import aqt_flax
from side_by_side import Transformer, heading, measured, ratio

import precis

ROUNDS = 25
WANTED = {
    ("mlp, 512 tokens", "precis w8a8"): 0.20,
    ("mlp, 512 tokens", "precis w8"): 0.40,
    ("mlp, one token", "precis w8a8"): 0.60,
    ("mlp, one token", "precis w8"): 0.60,
}


class Mlp(nn.Module):
    """Up, down, up, down."""

    dot_general_cls: Any = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """[..., 1024]."""
        for _ in range(2):
            h = nn.Dense(4096, dot_general_cls=self.dot_general_cls)(x)
            x = nn.Dense(1024, dot_general_cls=self.dot_general_cls)(nn.relu(h))
        return x


WORKS = {
    "mlp, 512 tokens": (Mlp, (512, 1024)),
    "mlp, one token": (Mlp, (1, 1024)),
    "transformer": (Transformer, (4, 128, 512)),
}


def with_qwix(module: type, params: Any, x: jax.Array, inputs: str | None) -> tuple[Any, Any]:
    """A model of qwix's, its weights quantized beforehand."""
    rules = [qwix.QtRule(module_path=".*", weight_qtype="int8", act_qtype=inputs)]
    model = qwix.quantize_model(module(), qwix.PtqProvider(rules))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    return model.apply, {"params": qwix.quantize_params(params["params"], shapes)}


def with_aqt(module: type, params: Any, x: jax.Array) -> tuple[Any, Any]:
    """AQT's serving mode: weights frozen in int8 by a conversion."""
    config = aqt_config.config_v4(fwd_bits=8, dlhs_bits=None, drhs_bits=None)

    def made(mode: Any) -> Any:
        frozen = aqt_flax.FreezerMode.CALIBRATION_AND_VALUE
        dot = functools.partial(
            aqt_flax.AqtDotGeneral, config, rhs_quant_mode=mode, rhs_freeze_mode=frozen
        )
        return module(dot_general_cls=dot)

    convert, serve = (made(m) for m in (aqt_flax.QuantMode.CONVERT, aqt_flax.QuantMode.SERVE))
    _, frozen = convert.apply(params, x, mutable=True, rngs={"params": jax.random.key(0)})
    return functools.partial(serve.apply, rngs={"params": jax.random.key(0)}), {**params, **frozen}


def contenders(module: type, x: jax.Array) -> dict[str, Callable[[], tuple[Any, Any]]]:
    """What makes functions to time, each with its parameters."""
    params = module().init(jax.random.key(0), x)
    return {
        "flax f32": lambda: (module().apply, params),
        "precis w8a8": lambda: precis.quantize_model(module(), params, "w8a8"),
        "qwix w8a8": lambda: with_qwix(module, params, x, "int8"),
        "AQT w8a8": lambda: with_aqt(module, params, x),
        "precis w8": lambda: precis.quantize_model(module(), params, "w8"),
        "qwix weights alone": lambda: with_qwix(module, params, x, None),
    }


def compiled(make: Callable[[], tuple[Any, Any]], x: jax.Array) -> tuple[Any, Any]:
    """An executable that no other trace has touched, and its parameters."""
    jax.clear_caches()
    fn, params = make()
    return jax.jit(fn).lower(params, x).compile(), params


def error_db(want: Any, got: Any) -> float:
    """Signal to noise of an output."""
    wide, other = np.asarray(want, np.float64), np.asarray(got, np.float64)
    noise = np.sum(np.square(wide - other))
    return float(10 * np.log10(np.sum(np.square(wide)) / noise)) if noise else float("inf")


def main() -> None:
    """Prints the tables."""
    has_amx = heading("Quantized models on a CPU, beside qwix and AQT", "inference.py")
    for work, (module, shape) in WORKS.items():
        x = jax.random.normal(jax.random.key(2), shape)
        programs = {}
        for name, make in contenders(module, x).items():
            try:
                programs[name] = compiled(make, x)
            except Exception as error:  # a peer may not run at all
                print(f"{name} on {work}: {type(error).__name__}: {error}", file=sys.stderr)
        seconds = measured(programs, x, rounds=ROUNDS, clock=time.process_time)
        base = seconds["flax f32"]
        outs = {name: program(params, x) for name, (program, params) in programs.items()}
        print(f"\n## {work}: flax f32 takes {1e3 * statistics.median(base):.1f} ms of CPU\n")
        print("| | ratio to f32 (quartiles) | wanted | SQNR, dB |\n|---|---|---|---|")
        for name, own in seconds.items():
            wanted = WANTED.get((work, name)) if has_amx else None
            db = error_db(outs["flax f32"], outs[name])
            print(f"| {name} | {ratio(own, base)} | {wanted or ''} | {db:.1f} |")


if __name__ == "__main__":
    main()
