"""What does carrying a policy into a function cost, beside the same written by hand?

    uv run python experiments/peers/overhead.py > experiments/peers/overhead.md

About 15 seconds. A decoder-like stack of 24 layers, unrolled and scanned, with its gradient.
Expected: tracing ≤ 2.8 times a plain trace unrolled, ≤ 2 times scanned and then the same for any
depth; the same dots as by hand, no more converts than by hand where an op that rounds runs in
float32 as under a policy, ≤ 1.03 times its bytes; and no copy of the parameters in few bits.
Medians of ratios over interleaved rounds, of processor time, which neighbors change least; figures
of compiled programs are XLA's own, for the GPU's lowering where the CPU's has layouts of its own.
"""

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import precis

WIDTH, TOKENS = 256, 64
ROUNDS = 15
EXACT = {"xla_allow_excess_precision": False}

Loss = Callable[[Any, Array], Array]
Dot = Callable[[Array, Array], Array]
Cast = Callable[[Array], Array]


def parameters(layers: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a stack of layers."""
    square = jax.ShapeDtypeStruct((layers, WIDTH, WIDTH), jnp.float32)
    vector = jax.ShapeDtypeStruct((layers, WIDTH), jnp.float32)
    return {"up": square, "down": square, "scale": vector, "bias": vector}


def layer(p: dict[str, Array], x: Array, dot: Dot, cast: Cast, wide: Cast) -> Array:
    """A norm, two dots, a residual; `cast` says what flows between, `wide` what ops run in."""
    whole = x.astype(jnp.float32)
    rms = lax.rsqrt(jnp.mean(jnp.square(whole), -1, keepdims=True) + 1e-6)
    h = cast(whole * rms * p["scale"])
    up = dot(h, p["up"])
    act = cast(wide(up) * wide(cast(jax.nn.sigmoid(up.astype(jnp.float32)))))
    added = cast(wide(x) + wide(dot(act, p["down"])))
    return cast(wide(added) + wide(cast(p["bias"])))


def stack(dot: Dot, cast: Cast, wide: Cast, *, scanned: bool) -> Loss:
    """The mean square of what the layers make of x."""

    def loss(params: dict[str, Array], x: Array) -> Array:
        h = cast(x)
        if scanned:
            h, _ = lax.scan(lambda h, p: (layer(p, h, dot, cast, wide), None), h, params)
        else:
            for i in range(params["up"].shape[0]):
                h = layer({name: p[i] for name, p in params.items()}, h, dot, cast, wide)
        return jnp.mean(jnp.square(h.astype(jnp.float32)))

    return loss


def plain(*, scanned: bool) -> Loss:
    """As a user writes it, in float32."""
    return stack(jnp.dot, lambda x: x, lambda x: x, scanned=scanned)


def by_hand(*, scanned: bool, wide: Cast = lambda x: x) -> Loss:
    """With the casts of mixed_bf16 written out, backward products too.

    What is left in bfloat16, such as a sum of two, the compiler runs in float32 between converts
    of its own; or `wide` does so.
    """

    @jax.custom_vjp
    def dot(x: Array, w: Array) -> Array:
        return _bf16(x, w)

    def forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
        return _bf16(x, w), (x, w)

    def backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
        x, w = saved
        low = w.astype(jnp.bfloat16)
        dx = lax.dot_general(g, low, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        dw = lax.dot_general(x, g, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        return dx.astype(jnp.bfloat16), dw

    dot.defvjp(forward, backward)
    return stack(dot, lambda x: x.astype(jnp.bfloat16), wide, scanned=scanned)


def _wide(x: Array) -> Array:
    return x.astype(jnp.float32)


def _bf16(x: Array, w: Array) -> Array:
    low = w.astype(jnp.bfloat16)
    return lax.dot(x, low, preferred_element_type=jnp.float32).astype(jnp.bfloat16)


def traced_s(fn: Callable[..., Any], *args: Any) -> float:
    """Processor seconds of tracing a function that is new; JAX's own small ones are not."""
    began = time.process_time()
    jax.make_jaxpr(fn)(*args)
    return time.process_time() - began


def tracing(x: Any) -> None:
    """Prints the first table."""
    print(
        "## Tracing\n\nRatios to plain: of the same casts by hand, and of mixed_bf16, which has to "
        "trace plain first.\n\n"
        "| | plain | by hand | mixed_bf16 (quartiles) | wanted |\n|---|---|---|---|---|"
    )
    for name, layers, scanned, wanted in (
        ("24 layers, unrolled", 24, False, "2.8"),
        ("24 layers, scanned", 24, True, "2.0"),
        ("96 layers, scanned", 96, True, "2.0"),
    ):
        for what, of in (("forward", lambda f: f), ("gradient", jax.grad)):
            params = parameters(layers)
            rounds: list[tuple[float, float, float]] = []
            for turn in range(ROUNDS + 1):
                # Functions are new each time, or JAX would know them.
                fn, ours = plain(scanned=scanned), plain(scanned=scanned)
                times = (
                    traced_s(of(fn), params, x),
                    traced_s(of(by_hand(scanned=scanned, wide=_wide)), params, x),
                    traced_s(of(precis.autocast(ours, "mixed_bf16")), params, x),
                )
                rounds += [times] if turn else []
            alone = 1e3 * statistics.median(times[0] for times in rounds)
            hand = statistics.median(times[1] / times[0] for times in rounds)
            low, middle, high = statistics.quantiles((t[2] / t[0] for t in rounds), n=4)
            print(
                f"| {name}, {what} | {alone:.1f} ms | {hand:.2f} | {middle:.2f} "
                f"({low:.2f}–{high:.2f}) | {wanted} |"
            )


def programs(x: Any) -> None:
    """Prints the second table."""
    print("\n## The program, 24 scanned layers and their gradient\n")
    print("| | dots | converts | bytes accessed | temporaries | bf16 copy of all parameters |")
    print("|---|---|---|---|---|---|")
    params = parameters(24)
    for name, fn in (
        ("by hand", by_hand(scanned=True)),
        ("by hand, ops in float32", by_hand(scanned=True, wide=_wide)),
        ("mixed_bf16", precis.autocast(plain(scanned=True), "mixed_bf16")),
        ("plain f32", plain(scanned=True)),
    ):
        traced = jax.jit(jax.value_and_grad(fn), compiler_options=EXACT).trace(params, x)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        compiled = traced.lower().compile()
        hlo = compiled.as_text() or ""
        cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
        accessed = (cost or {}).get("bytes accessed", float("nan"))
        temporaries = memory.temp_size_in_bytes if memory else float("nan")
        copy = "yes" if f"bf16[24,{WIDTH},{WIDTH}]" in hlo else "no"
        print(
            f"| {name} | {text.count('stablehlo.dot_general')} | {text.count('stablehlo.convert')} "
            f"| {accessed / 1e6:.1f} MB | {temporaries / 2**20:.1f} MiB | {copy} |"
        )


def main() -> None:
    """Prints the tables."""
    print("# What a policy costs beside the same by hand\n")
    print(f"From `experiments/peers/overhead.py`, {time.strftime('%Y-%m-%d')}.")
    print(f"jax {jax.__version__}, {platform.machine()}, {jax.default_backend()}.\n")
    x = jax.ShapeDtypeStruct((TOKENS, WIDTH), jnp.float32)
    tracing(x)
    programs(x)


if __name__ == "__main__":
    main()
