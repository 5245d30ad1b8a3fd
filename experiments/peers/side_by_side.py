"""What the benchmarks beside flax, qwix and AQT share: a model, interleaved rounds, a heading."""

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

_TOLD = ("amx_tile", "avx512_bf16", "avx512_vnni", "avx2")


class Transformer(nn.Module):
    """Two layers as in every textbook, norms first."""

    dtype: Any = None
    dot_general_cls: Any = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """[batch, tokens, 512]."""
        own = {"dtype": self.dtype}
        dot = self.dot_general_cls
        for _ in range(2):
            attention = nn.MultiHeadDotProductAttention(
                num_heads=8, **own, qkv_dot_general_cls=dot, out_dot_general_cls=dot
            )
            x = x + attention(nn.LayerNorm(**own)(x))
            h = nn.Dense(2048, **own, dot_general_cls=dot)(nn.LayerNorm(**own)(x))
            x = x + nn.Dense(512, **own, dot_general_cls=dot)(nn.gelu(h))
        return nn.LayerNorm(**own)(x)


def measured(
    programs: dict[str, tuple[Any, Any]],
    x: jax.Array,
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each program in each round; one round before the first warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, (program, params) in programs.items():
            began = clock()
            jax.block_until_ready(program(params, x))
            if turn:
                seconds[name].append(clock() - began)
    return seconds


def ratio(own: list[float], base: list[float]) -> str:
    """`own` by `base`, round by round: the median and the quartiles."""
    ratios = [a / b for a, b in zip(own, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def heading(title: str, source: str) -> bool:
    """Prints a page's head; whether this CPU has AMX, on which the wanted figures hang."""
    flags = _cpu_flags()
    names = ("jax", "flax", "qwix", "aqtp")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"# {title}\n")
    print(f"From `experiments/peers/{source}`, {time.strftime('%Y-%m-%d')}. {versions}.")
    print(f"{platform.machine()}, {', '.join(f for f in _TOLD if f in flags)}.")
    if "amx_tile" not in flags:
        print("No AMX here: the wanted figures are not applicable; who is ahead of whom is.")
    return "amx_tile" in flags


def _cpu_flags() -> set[str]:
    """What the processor says that it has."""
    try:
        line = next(x for x in Path("/proc/cpuinfo").read_text().splitlines() if "flags" in x)
    except (OSError, StopIteration):
        return set()
    return set(line.split())
