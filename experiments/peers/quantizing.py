"""How fast is a tree quantized, beside a copy of it and qwix, and in how much memory a checkpoint?

    uv run --group peers python experiments/peers/quantizing.py > experiments/peers/quantizing.md

About 3 minutes and 4 GB of disk, in a folder that is removed again. The tree is 16 float32 kernels
of 4096², 1 GiB; it becomes int8 with a scale for each channel. Speed is that of a copy of the
same tree divided by that of quantizing it, once of a copy into memory that is there (`np.copyto`)
and once of one that takes new memory as quantizing does (`np.copy`); rounds are interleaved,
medians. Each checkpoint is
quantized from disk to disk in a fresh process: added is what its peak of resident memory was above
that before the call, jax being imported and warm or not. Expected: quantizing at 0.5 of a copy or
faster on two idle cores (qwix: 0.10), at most 8% of the floats added.
"""

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import save_file

import precis
from precis.models.loader import quantize_checkpoint

ROUNDS, LEAVES, SIZE = 7, 16, 4096


def kernels() -> dict[str, np.ndarray]:
    """1 GiB of floats."""
    base = np.random.default_rng(0).standard_normal((SIZE, SIZE), dtype=np.float32)
    return {f"layers/{number}/kernel": base * (number + 1) for number in range(LEAVES)}


def speed() -> None:
    """A table of all that is done with a tree in memory."""
    import qwix

    arrays = kernels()
    tree = {path: jax.device_put(x) for path, x in arrays.items()}
    targets = {path: np.zeros_like(x) for path, x in arrays.items()}

    def copy() -> Any:
        for path, x in arrays.items():
            np.copyto(targets[path], x)

    def by_qwix() -> Any:
        return [qwix.quantize(x, jnp.int8, channelwise_axes=[1]) for x in tree.values()]

    ways: dict[str, Callable[[], Any]] = {
        "np.copyto": copy,
        "np.copy": lambda: [x.copy() for x in arrays.values()],
        "jnp.copy": lambda: jax.tree.map(jnp.copy, tree),
        "precis.quantize": lambda: precis.quantize(tree, "int8"),
        "qwix.quantize": by_qwix,
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    loads = []
    for turn in range(ROUNDS + 1):
        for name, way in ways.items():
            began, busy = time.perf_counter(), time.process_time()
            jax.block_until_ready(way())
            if turn:  # the first compiles, and touches memory
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - busy)
        loads.append(os.getloadavg()[0])
    print(
        f"\n## In memory, with {min(loads):.0f} to {max(loads):.0f} jobs on {os.cpu_count()} cores"
    )
    print("\n| | ms (quartiles) | speed, of np.copyto's | of np.copy's | CPU ms, all threads |")
    print("|---|---|---|---|---|")
    for name in ways:
        low, middle, high = (1e3 * x for x in statistics.quantiles(wall[name], n=4))
        print(
            f"| {name} | {middle:.0f} ({low:.0f}–{high:.0f}) | {_ratio(wall, 'np.copyto', name)} "
            f"| {_ratio(wall, 'np.copy', name)} | {1e3 * statistics.median(cpu[name]):.0f} |"
        )


def _ratio(seconds: dict[str, list[float]], base: str, name: str) -> str:
    """How much faster than `base`, round by round: the median and the quartiles."""
    ratios = [a / b for a, b in zip(seconds[base], seconds[name], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def streamed(src: str, dst: str, fmt: str, is_warm: str) -> None:
    """Quantizes a checkpoint in this process, and prints what that took as JSON."""
    jax.block_until_ready(jnp.zeros(3) + 1)
    if is_warm == "warm":
        quantize_checkpoint(src, f"{dst}.first", fmt, kind=_kind(dst))
    before = _resident("VmRSS")
    if is_warm == "warm":
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began = time.perf_counter()
    done = quantize_checkpoint(src, dst, fmt, kind=_kind(dst))
    seconds, added = time.perf_counter() - began, _resident("VmHWM") - before
    told = {"added": added, "seconds": seconds, "cpu": sum(resource.getrusage(0)[:2])}
    print(json.dumps({**told, "before": done.bytes_before, "after": done.bytes_after}))


def _kind(dst: str) -> Any:
    return "safetensors" if dst.endswith(".safetensors") else "orbax"


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def memory() -> None:
    """A table of checkpoints that are quantized from disk to disk."""
    print("\n## From disk to disk, a fresh process each\n")
    print("| from | to | format | added, MiB | of the floats | the same again, MiB | s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        arrays = kernels()
        save_file(arrays, f"{folder}/kernel.safetensors")
        torch = {path.replace("kernel", "weight"): x for path, x in arrays.items()}
        save_file(torch, f"{folder}/weight.safetensors")
        half = {path: x.astype(jnp.bfloat16) for path, x in torch.items()}
        # 1 GiB of these as well.
        half |= {f"more/{path}": x for path, x in half.items()}
        save_file(half, f"{folder}/bf16.safetensors")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(f"{folder}/orbax", arrays)
        del arrays, torch, half
        for src, dst, fmt in (
            ("kernel.safetensors", "out.safetensors", "int8"),
            ("weight.safetensors", "out.safetensors", "int8"),
            ("bf16.safetensors", "out.safetensors", "int8"),
            ("weight.safetensors", "out.safetensors", "nf4"),
            ("weight.safetensors", "out", "int8"),
            ("orbax", "out", "int8"),
        ):
            cold, warm = (_in_a_process(folder, src, dst, fmt, how) for how in ("cold", "warm"))
            share = cold["added"] / cold["before"]
            print(
                f"| {src} | {_kind(dst)} | {fmt} | {cold['added'] / 2**20:.0f} | {share:.1%} "
                f"| {warm['added'] / 2**20:.0f} | {warm['seconds']:.1f} |"
            )


def _in_a_process(folder: str, src: str, dst: str, fmt: str, how: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as own:
        command = [sys.executable, __file__, f"{folder}/{src}", f"{own}/{dst}", fmt, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        streamed(*sys.argv[1:])
    else:
        names = ("jax", "qwix", "numpy", "orbax-checkpoint")
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
        print("# Quantizing a tree and a checkpoint, beside a copy and qwix\n")
        print(f"From `experiments/peers/quantizing.py`, {time.strftime('%Y-%m-%d')}. {versions}.")
        print(f"{platform.machine()}, {os.cpu_count()} cores. 1 GiB of float32, int8 per channel.")
        speed()
        memory()
