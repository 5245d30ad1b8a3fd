"""What travels between devices for a step's gradients, and what do fewer bits of it cost?

    uv run python experiments/peers/wire.py > experiments/peers/wire.md

About 2 minutes. The `text` decoder on eight virtual CPU devices, each with four windows of the
batch. Bytes are read off the collectives of the whole compiled training step; errors are those of
the reduced gradient against the float64 mean of what each device had, after 30 steps of training.
Expected: bf16 half of f32's bytes, int8 in blocks of 256 at most 0.26 of them; no integer is
summed on its way; errors of bf16 near 2^-9 and of int8 near 2^-7, relative to the gradient.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import precis
from precis.optim import reduce_gradients, varying
from precis.train import Step, fit, load_task, make_step
from precis.walk import collectives_in

DEVICES, STEPS = 8, 30
FORMATS = ("f32", "bf16", "f16", "int8@block256", "dynamic8@block256", "e4m3fn@block256",
           "int4@block32")  # fmt: skip
EXACT = {"xla_allow_excess_precision": False}


def on_devices(fn: Any, in_specs: Any, out_specs: Any, **options: Any) -> Any:
    """`fn` on all devices, compiled."""
    mesh = Mesh(np.array(jax.devices()), "data")
    sharded = jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, **options)
    return jax.jit(sharded, compiler_options=EXACT)


def read(compiled: Any, parameters: int) -> tuple[str, float]:
    """Collectives in words, and the bytes that a device sends for each parameter."""
    found = list(collectives_in(compiled.as_text(), DEVICES))
    kinds: dict[str, list[str]] = {}
    for collective in sorted(found, key=lambda c: -c.sent_bytes):
        if collective.size > 2:  # the loss and the metric, which every step averages
            kinds.setdefault(collective.kind, []).append(collective.dtype)
    words = "; ".join(f"{kind} {', '.join(dtypes)}" for kind, dtypes in sorted(kinds.items()))
    return words, sum(c.sent_bytes for c in found) / parameters


def step_in(task: Any, fmt: str) -> Step:
    """A training step in mixed_bf16 that sends gradients in `fmt`."""
    policy = f"p=f32,c=bf16,o=f32,r={fmt}"
    optimizer = optax.adamw(3e-3, b2=0.95)
    return make_step(task.loss, optimizer, policy, has_state=True, axis_name="data", jit=False)


def local_gradients(task: Any, params: Any, state: Any, batch: Any) -> Any:
    """[devices, …]: what each device has before anything is sent."""
    gradient = precis.value_and_grad(task.loss, "mixed_bf16", has_aux=True, state_argnums=1)

    def local(params: Any, batch: Any) -> Any:
        _, grads = gradient(varying(params, "data"), state, batch, key=None, train=True)
        return jax.tree.map(lambda g: g[None], grads)

    return on_devices(local, (P(), P("data")), P("data"))(params, batch)


def in_bf16(grads: Any) -> Any:
    """As it is often done: cast, then summed by the collective."""
    return jax.tree.map(lambda g: lax.pmean(g.astype(jnp.bfloat16), "data").astype(g.dtype), grads)


def errors(reduce: Any, grads: Any) -> tuple[float, float]:
    """Of the reduced gradient: its relative error, and that of the leaf that fares worst."""
    out = on_devices(lambda g: reduce(jax.tree.map(lambda x: x[0], g)), P("data"), P())(grads)
    pairs = [
        (np.float64(got), np.float64(rows).mean(0))
        for got, rows in zip(jax.tree.leaves(out), jax.tree.leaves(grads), strict=True)
    ]
    noise = np.array([np.sum((got - want) ** 2) for got, want in pairs])
    signal = np.array([np.sum(want**2) for _, want in pairs])
    return float((noise.sum() / signal.sum()) ** 0.5), float((noise / signal).max() ** 0.5)


def row(name: str, words: str, sent: float, f32_sent: float, error: tuple[float, float]) -> None:
    """Prints a line of the table."""
    whole, worst = error
    db = -20 * np.log10(whole)
    print(
        f"| {name} | {words} | {sent:.3f} | {sent / f32_sent:.3f} | {whole:.1e} | {db:.1f} "
        f"| {worst:.1e} |"
    )


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_num_cpu_devices", DEVICES)
    task = load_task("text", None, batch_size=32)
    params, state = task.init(jax.random.key(0))
    trained = make_step(task.loss, optax.adamw(3e-3, b2=0.95), "mixed_bf16", has_state=True)
    *_, last = fit(trained, task, trained.init(params, state), seed=0, steps=STEPS)
    batch = task.batch(0, STEPS)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    leaves = len(jax.tree.leaves(params))

    print("# Gradients on the wire\n")
    print(f"From `experiments/peers/wire.py`, {time.strftime('%Y-%m-%d')}. jax {jax.__version__},")
    print(f"{DEVICES} virtual CPU devices; the `text` decoder, {count:,} parameters in {leaves}")
    print(f"leaves, after {STEPS} steps of mixed_bf16.\n")
    print("| r | collectives of a step | bytes sent a parameter | of f32's | relative error |"
          " SQNR (dB) | worst leaf |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    grads = local_gradients(task, last.state.params, last.state.state, batch)
    f32_sent = 0.0
    for fmt in FORMATS:
        step = step_in(task, fmt)
        before = step.init(params, state)
        update = on_devices(step.update, (P(), P("data"), P()), P())
        words, sent = read(update.lower(before, batch, None).compile(), count)
        f32_sent = f32_sent or sent
        error = errors(lambda g, fmt=fmt: reduce_gradients(g, "data", fmt), grads)
        row(fmt, words, sent, f32_sent, error)
    plain = on_devices(lambda g: in_bf16(jax.tree.map(lambda x: x[0], g)), P("data"), P())
    words, sent = read(plain.lower(grads).compile(), count)
    row("`lax.pmean` of bf16", words, sent, f32_sent, errors(in_bf16, grads))
    print(WORDS.rstrip())


WORDS = """
Bytes are those of the whole step, the loss and one metric included, which every step averages in
float32; a ring's all-reduce sends each byte twice but for the share of the device itself.

- In blocks of 256, int8 sends about a quarter of float32's bytes at 35 dB, and the two roundings of
  bf16 half of them at 54 dB; what is sent in 8 bits is never summed in 8 bits.
- XLA's CPU widens a collective of bf16 to float32, which saves nothing (the last line); ours sends
  16-bit floats as their bits.
- Expected of int8 was an error of 2^-7, half of what it is: entries are small beside the largest of
  their block.
"""

if __name__ == "__main__":
    main()
