"""How fast is rounding, beside a plain copy and beside gfloat and pychop?

    uv run --group peers python experiments/peers/formats.py > experiments/peers/formats.md

About 12 minutes on two cores that are shared. Expected: nearest
rounding at 0.6 of a copy's speed or more and at least 4 times gfloat's jitted path; MX
quantize-dequantize at 0.25 of a copy or more; stochastic rounding at least 5 times pychop's. One
process; in every round each case has its turn, so that a slow moment of the machine meets all of
them; ratios are taken within rounds.
Results go into a buffer that is used again, but for pychop, which is not jitted as a whole: fresh
memory costs more than all else, and a second table has it. The third one stays in the cache.
"""

import importlib.metadata
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import gfloat
import gfloat.formats
import jax
import jax.numpy as jnp
import numpy as np
import pychop
from jax import Array

from precis.formats import quantize_dequantize, round_to

GFLOAT = {
    "f16": gfloat.formats.format_info_binary16,
    "bf16": gfloat.formats.format_info_bfloat16,
    "e4m3fn": gfloat.formats.format_info_ocp_e4m3,
    "e5m2": gfloat.formats.format_info_ocp_e5m2,
    "e2m1": gfloat.formats.format_info_ocp_e2m1,
}
PYCHOP = {"bf16": (8, 7), "e5m2": (5, 2)}
BLOCKS = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp4", "mxint8", "nvfp4")
ROW = 4096


Op = Callable[[Array], Array]


class Case(NamedTuple):
    """What is timed: an op from [n] float32 to the same, jitted as a whole or not at all."""

    name: str
    op: Op
    against: str
    wanted: float | None = None
    jitted: bool = True


def cases() -> list[Case]:
    """The copy, what is measured against it, and the peers' ways."""
    key = jax.random.key(0)
    found = [Case("copy", jnp.copy, "copy"), Case("negate", jnp.negative, "copy")]
    for name in GFLOAT:
        found += [
            Case(f"round_to {name}", _rounded(name), "copy", 0.6),
            Case(f"gfloat {name}", _gfloat(name), f"round_to {name}", 4),
        ]
    for name in BLOCKS:
        wanted = 0.25 if name.startswith("mx") else None
        found.append(Case(f"quantize_dequantize {name}", _blocks(name), "copy", wanted))
    found.append(Case("jax.random.bits", _bits(key), "copy"))
    for name, widths in PYCHOP.items():
        chop: Any = pychop.Chop(*widths, rmode=5)
        found += [
            Case(f"round_to {name}(stochastic)", _stochastic(name, key), "copy"),
            Case(f"pychop {name}, rmode=5", chop, f"round_to {name}(stochastic)", 5, jitted=False),
        ]
    return found


def _rounded(name: str) -> Op:
    return lambda x: round_to(x, name)


def _gfloat(name: str) -> Op:
    # Not saturating, it looks at values where a format has neither Inf nor NaN: no jit.
    saturates = name == "e2m1"
    any_array: Any = gfloat.round_ndarray  # its types know NumPy's arrays only
    return lambda x: any_array(GFLOAT[name], x, sat=saturates)


def _blocks(name: str) -> Op:
    return lambda x: quantize_dequantize(x.reshape(-1, ROW), name).reshape(x.shape)


def _bits(key: Array) -> Op:
    def drawn(x: Array) -> Array:
        bits = jax.random.bits(key, x.shape, np.dtype(np.uint32))
        return jax.lax.bitcast_convert_type(bits, np.float32)

    return drawn


def _stochastic(name: str, key: Array) -> Op:
    return lambda x: round_to(x, name, rounding="stochastic", key=key)


def runner(case: Case, *, reuse: bool) -> Callable[[Array, Array], Array]:
    """The op with a second argument: the array that its result may take the place of."""
    if not case.jitted:
        return lambda x, out: case.op(x)
    donated = (1,) if reuse else ()
    return jax.jit(lambda x, out: case.op(x), donate_argnums=donated, keep_unused=True)


def measured(elements: int, *, rounds: int, repeats: int, reuse: bool) -> dict[str, np.ndarray]:
    """Seconds of a call of every case, [rounds] each, interleaved."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=elements).astype(np.float32))
    runs = {case.name: runner(case, reuse=reuse) for case in cases()}
    out = jnp.zeros_like(x)
    for run in runs.values():
        out = run(x, out).block_until_ready()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for done in range(rounds):
        for name, run in runs.items():
            out = run(x, out).block_until_ready()  # the first one after another case is colder
            start = time.perf_counter()
            for _ in range(repeats):
                out = run(x, out).block_until_ready()
            times[name].append((time.perf_counter() - start) / repeats)
        print(f"{elements} elements: round {done + 1} of {rounds}", file=sys.stderr)
    return {name: np.array(values) for name, values in times.items()}


def table(times: dict[str, np.ndarray], elements: int) -> str:
    """One line a case: time an element, and how many times as fast as what it is held against."""
    lines = ["| | ns per element | ratio | of | wanted |", "|---|---|---|---|---|"]
    for case in cases():
        spent = spread(times[case.name] / elements * 1e9)
        # A peer's line says how many times as fast ours is; ours, how it stands to a copy.
        is_peer = case.against != "copy"
        fast, slow = (case.against, case.name) if is_peer else (case.name, case.against)
        ratio = spread(times[slow] / times[fast])
        speeds = f"our speed to {case.name.split()[0]}'s" if is_peer else "its speed to a copy's"
        lines.append(f"| {case.name} | {spent} | {ratio} | {speeds} | {case.wanted or ''} |")
    return "\n".join(lines)


def spread(values: np.ndarray) -> str:
    """Median and quartiles."""
    low, middle, high = (f"{v:.2f}" for v in np.percentile(values, [25, 50, 75]))
    return f"{middle} ({low}–{high})"


def agreement() -> str:
    """On how many of 2^20 normal numbers each peer and we differ."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=2**20).astype(np.float32))
    counts = (f"{name} {int((_rounded(name)(x) != _gfloat(name)(x)).sum())}" for name in GFLOAT)
    return f"Results that differ from gfloat's on 2^20 draws of N(0, 1): {', '.join(counts)}."


def main() -> None:
    """Prints the page."""
    warnings.filterwarnings("ignore", message="Explicitly requested dtype int64")
    pychop.backend("jax")
    hlo = jax.jit(jnp.copy).lower(jnp.ones(8)).compile().as_text() or ""
    assert "copy(" in hlo, f"the copy has been optimized away: {hlo}"
    names = ("jax", "numpy", "ml_dtypes", "gfloat", "pychop")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print("# Rounding beside a copy, gfloat and pychop\n")
    print("From `experiments/peers/formats.py`. Medians with quartiles, rounds interleaved.")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}; {versions}.")
    print(agreement())
    for title, power, rounds, repeats, reuse in (
        ("2^26 float32 elements", 26, 9, 1, True),
        ("2^26 float32 elements, into fresh memory, for information", 26, 5, 1, False),
        ("2^20 float32 elements, in cache, for information", 20, 15, 20, True),
    ):
        times = measured(2**power, rounds=rounds, repeats=repeats, reuse=reuse)
        print(f"\n## {title}\n\n{table(times, 2**power)}")


if __name__ == "__main__":
    main()
