"""How fast are few-bit products in training on a CPU, beside flax, qwix and AQT?

    uv run --group peers python experiments/peers/dense.py > experiments/peers/dense.md

About 3 minutes. One Dense, 2048×1024 → 4096, forward and backward with 2-D activations; and the
loss and gradient of a transformer (d 512, 2 layers, 8 heads, ffn 2048, 4×128 tokens). Figures are
ratios to the same in float32 by plain flax, of medians; rounds are interleaved in one process.
Expected, on a CPU with AMX and jax ≥ 0.10: Dense in bf16 ≤ 0.40 and in int8 ≤ 0.45, transformer
≤ 0.50 and ≤ 0.55, ahead of every peer. Without AMX the figures are not applicable; being ahead is.
Every program is compiled with JAX's caches cleared: qwix patches jax while it traces.
"""

import functools
import statistics
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import qwix
from aqt.jax.v2 import config as aqt_config
from aqt.jax.v2.flax import aqt_flax
from side_by_side import Transformer, heading, measured, ratio

import precis

ROUNDS = 9
EXACT = {"xla_allow_excess_precision": False}
WANTED = {"dense": {"precis mixed_bf16": 0.40, "precis int8": 0.45},
          "transformer": {"precis mixed_bf16": 0.50, "precis int8": 0.55}}  # fmt: skip


class Dense(nn.Module):
    """One layer."""

    dtype: Any = None
    dot_general_cls: Any = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """[..., 4096]."""
        return nn.Dense(
            4096, use_bias=False, dtype=self.dtype, dot_general_cls=self.dot_general_cls
        )(x)


WORKS = {"dense": (Dense, (2048, 1024)), "transformer": (Transformer, (4, 128, 512))}


def gradient(apply: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient of a sum of squares with respect to parameters and input."""

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(apply(params, x).astype(jnp.float32)))

    return jax.value_and_grad(loss, (0, 1))


def under(policy: str, apply: Callable[..., Any]) -> Callable[..., Any]:
    """The same under one of our policies, gradient and all."""

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(apply(params, x)))

    return jax.value_and_grad(precis.autocast(loss, policy), (0, 1))


def contenders(module: type, x: jax.Array) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Functions to time, each with its parameters."""
    model = module()
    params = model.init(jax.random.key(0), x)
    int8 = {"weight_qtype": "int8", "act_qtype": "int8", "bwd_qtype": "int8"}
    rules = [qwix.QtRule(module_path=".*", **int8)]
    quantized = qwix.quantize_model(model, qwix.QtProvider(rules))
    aqt = module(
        dot_general_cls=functools.partial(
            aqt_flax.AqtDotGeneral,
            aqt_config.config_v4(fwd_bits=8, dlhs_bits=8, drhs_bits=8),
        )
    )
    noise = {"params": jax.random.key(1)}
    return {
        "flax f32": (gradient(model.apply), params),
        "precis f32": (under("f32", model.apply), params),
        "precis mixed_bf16": (under("mixed_bf16", model.apply), params),
        "flax dtype=bf16": (gradient(module(dtype=jnp.bfloat16).apply), params),
        "precis int8": (under("int8", model.apply), params),
        "qwix int8": (gradient(quantized.apply), params),
        "AQT int8": (gradient(functools.partial(aqt.apply, rngs=noise)), params),
    }


def compiled(fn: Callable[..., Any], params: Any, x: jax.Array) -> Any:
    """An executable that no other trace has touched."""
    jax.clear_caches()
    return jax.jit(fn, compiler_options=EXACT).lower(params, x).compile()


def main() -> None:
    """Prints the tables."""
    has_amx = heading("Few-bit training on a CPU, beside flax, qwix and AQT", "dense.py")
    for work, (module, shape) in WORKS.items():
        x = jax.random.normal(jax.random.key(2), shape)
        programs = {}
        for name, (fn, params) in contenders(module, x).items():
            try:
                programs[name] = compiled(fn, params, x), params
            except Exception as error:  # a peer may not run at all
                print(f"{name} on {work}: {type(error).__name__}: {error}", file=sys.stderr)
        seconds = measured(programs, x, rounds=ROUNDS)
        base = seconds["flax f32"]
        print(f"\n## {work}: flax f32 takes {1e3 * statistics.median(base):.0f} ms\n")
        print("| | ratio to f32 (quartiles) | wanted |\n|---|---|---|")
        for name, own in seconds.items():
            wanted = WANTED[work].get(name) if has_amx else None
            print(f"| {name} | {ratio(own, base)} | {wanted or ''} |")


if __name__ == "__main__":
    main()
