"""What do checked steps and moments of 8 bits cost, beside bare Adam and optax.apply_if_finite?

    uv run python experiments/peers/optim.py > experiments/peers/optim.md

About 3 minutes. Adam on four float32 parameters of 2048², 16.8 million entries, state and
parameters donated; and on one of 4096² for the bytes. Ratios to bare Adam of medians with
quartiles, rounds interleaved in one process; the time of all cores is the least of the rounds, and
says something on a busy machine too. Bytes are XLA's own `memory_analysis()`.
Expected: finite check and unscaling ≤ 1.20 of bare Adam (optax.apply_if_finite about 2.3); 8-bit
moments ≤ 2 times its step, ≤ 0.30 of its state's bytes, and for one 4096² leaf states and
temporaries together ≤ 38 MiB where float32 Adam has 128.
"""

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precis.optim import apply_update, dynamic_loss_scale, loss_scaled, quantized_state
from precis.tree import nbytes

ROUNDS = 15
SHAPES = {f"w{i}": (2048, 2048) for i in range(4)}
LARGE = {"w": (4096, 4096)}


class Took(NamedTuple):
    """Seconds of one step: of the clock, and of all cores together."""

    wall: float
    cores: float


class Way(NamedTuple):
    """An optimizer, how a step with it is written, and what its ratio should be."""

    optimizer: optax.GradientTransformation
    step: Callable[..., Any]
    wanted: str


def two_calls(optimizer: Any, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """As optax's documentation has it."""
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def one_call(optimizer: Any, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """Updates applied where they are made."""
    return apply_update(optimizer, grads, state, params)[:2]


def ways() -> dict[str, Way]:
    """What is compared; the first is what the others are set against."""
    adam = optax.adam(1e-3)
    scaled = loss_scaled(adam, dynamic_loss_scale())
    eight = {
        f"quantized_state {m}, {v}": Way(quantized_state(adam, m, v), one_call, "2.00")
        for m, v in (("dynamic8", "dynamic8"), ("int8", "e5m2"), ("e4m3fn", "e5m2"))
    }
    return {
        "optax.adam": Way(adam, two_calls, ""),
        "loss_scaled, apply_update": Way(scaled, one_call, "1.20"),
        "loss_scaled, optax.apply_updates": Way(scaled, two_calls, ""),
        "optax.apply_if_finite": Way(optax.apply_if_finite(adam, 5), two_calls, ""),
        **eight,
        "loss_scaled quantized_state": Way(
            loss_scaled(quantized_state(adam), dynamic_loss_scale()), one_call, ""
        ),
    }


def compiled(way: Way, shapes: dict[str, tuple[int, int]]) -> Any:
    """One step of `way`, its state and parameters donated.

    Results come in the order of arguments: JAX gives each the first donated buffer of its shape,
    and in another order XLA would copy all of them.
    """
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    state = jax.eval_shape(way.optimizer.init, params)

    def step(grads: Any, params: Any, state: Any) -> tuple[Any, Any]:
        return way.step(way.optimizer, grads, state, params)

    return jax.jit(step, donate_argnums=(1, 2)).lower(params, params, state).compile()


def times() -> dict[str, list[Took]]:
    """What one step took, round by round."""
    key = jax.random.key(0)
    grads = {name: jax.random.normal(key, shape) for name, shape in SHAPES.items()}
    running = {}
    for name, way in ways().items():
        params = jax.tree.map(jnp.zeros_like, grads)
        running[name] = [compiled(way, SHAPES), params, jax.jit(way.optimizer.init)(params)]
    taken: dict[str, list[Took]] = {name: [] for name in running}
    for turn in range(ROUNDS + 1):
        for name, (step, params, state) in running.items():
            wall, cores = time.perf_counter(), time.process_time()
            params, state = jax.block_until_ready(step(grads, params, state))
            took = Took(time.perf_counter() - wall, time.process_time() - cores)
            taken[name] += [took] if turn else []
            running[name][1:] = params, state
    return taken


def speed() -> None:
    """Prints the first table."""
    print("## A step, 16.8 million parameters\n")
    print("| | ms | of bare Adam (quartiles) | wanted | ms of all cores |\n|---|---|---|---|---|")
    taken = times()
    bare = taken["optax.adam"]
    for name, way in ways().items():
        ratios = [a.wall / b.wall for a, b in zip(taken[name], bare, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        ms = 1e3 * statistics.median(took.wall for took in taken[name])
        cores = 1e3 * min(took.cores for took in taken[name])
        ratio = f"{middle:.2f} ({low:.2f}–{high:.2f})"
        print(f"| {name} | {ms:.1f} | {ratio} | {way.wanted} | {cores:.1f} |")


def memory() -> None:
    """Prints the second table."""
    print("\n## Bytes, one parameter of 4096²\n")
    print("| | state, MiB | of float32 | state and temporaries, MiB |\n|---|---|---|---|")
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in LARGE.items()}
    full = None
    for name, way in ways().items():
        state = nbytes(jax.eval_shape(way.optimizer.init, shapes))
        full = full or state
        found: Any = compiled(way, LARGE).memory_analysis()
        total = (
            found.argument_size_in_bytes
            + found.output_size_in_bytes
            + found.temp_size_in_bytes
            - found.alias_size_in_bytes
            - 2 * nbytes(shapes)  # parameters and gradients
        )
        print(f"| {name} | {state / 2**20:.1f} | {state / full:.3f} | {total / 2**20:.1f} |")


def main() -> None:
    """Prints the tables."""
    print("# Checked steps and moments of 8 bits, beside optax\n")
    print(f"From `experiments/peers/optim.py`, {time.strftime('%Y-%m-%d')}.")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "optax"))
    print(f"{platform.machine()}, 2 cores, {jax.default_backend()}; {versions}.\n")
    speed()
    memory()


if __name__ == "__main__":
    main()
