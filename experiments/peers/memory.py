"""What does each way to train in few bytes save, by the compiled program's own account?

    uv run python experiments/peers/memory.py > experiments/peers/memory.md

About 5 minutes. One training step of a scanned decoder (8 layers, dim 512, 16 windows of 256
bytes, AdamW), state donated: arguments, outputs and temporaries less what is aliased, by XLA's
`memory_analysis()`, nothing run. Each row changes one key of the recipe or one role of the policy.
Expected: each row needs fewer bytes than the first; accumulation and remat in temporaries,
freezing in states and temporaries, moments in 8 bits in states; a float32 master needs more than
bfloat16 parameters alone, Kahan's compensation and chance do not; of int8, activations in codes
save more than weights in codes.
"""

import functools
import importlib.metadata
import platform
import time
from typing import Any

import jax

import precis
from precis.train.optimizer import make_optimizer
from precis.train.tasks.text import text
from precis.tree import nbytes

BASE: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.1}
F32 = "p=f32,c=f32,o=f32"
BF16_PARAMS = "p=bf16,c=bf16,o=f32"
INT8_PARAMS = "p=int8,g=bf16,o=f32"
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("f32", F32, {}),
    ("`remat = true`", F32, {"remat": True}),
    ("`accumulate = 4`", F32, {"accumulate": 4}),
    ("both", F32, {"remat": True, "accumulate": 4}),
    ('`trainable = ["head/**"]`', F32, {"trainable": ("head/**",)}),
    ("`m` and `v` in `bf16`", f"{F32},m=bf16,v=bf16", {}),
    ("`m` and `v` in `dynamic8@block256`", f"{F32},m=dynamic8@block256,v=dynamic8@block256", {}),
    ("`mixed_bf16`", "mixed_bf16", {}),
    ('`p=bf16`, `master = "f32"`', BF16_PARAMS, {"master": "f32"}),
    ('`p=bf16`, `master = "kahan"`', BF16_PARAMS, {"master": "kahan"}),
    ('`p=bf16`, `master = "stochastic"`', BF16_PARAMS, {"master": "stochastic"}),
    (
        "`stochastic`, 8-bit moments, remat, accumulate",
        f"{BF16_PARAMS},m=dynamic8@block256,v=dynamic8@block256",
        {"master": "stochastic", "remat": True, "accumulate": 4},
    ),
    ("`int8_forward`", "int8_forward", {}),
    ('the same, `remat = "codes"`', "int8_forward", {"remat": "codes"}),
    ('`p=int8`, `master = "f32"`', INT8_PARAMS, {"master": "f32"}),
    ('`p=int8`, `master = "stochastic"`', INT8_PARAMS, {"master": "stochastic"}),
    (
        "the same, 8-bit moments, remat, accumulate",
        f"{INT8_PARAMS},m=dynamic8@block256,v=dynamic8@block256",
        {"master": "stochastic", "remat": True, "accumulate": 4},
    ),
)


@functools.cache
def task(remat: bool | str) -> Any:
    """The built-in task, its decoder enlarged."""
    return text(dim=512, layers=8, heads=8, context=256, batch_size=16, remat=remat)


def measured(policy: str, changes: dict[str, Any]) -> tuple[float, ...]:
    """MiB of parameters, of the optimizer's state, of temporaries, and of all."""
    recipe = precis.Recipe(**BASE, **changes)
    problem = task(recipe.remat)
    step = precis.make_step(
        problem.loss,
        make_optimizer(recipe, steps=100),
        policy,
        has_state=True,
        master=recipe.master,
        accumulate=recipe.accumulate,
        trainable=recipe.trainable,
        jit=False,
    )
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: step.init(*problem.init(key)), key)
    options = {"xla_allow_excess_precision": False}
    program = jax.jit(step.update, donate_argnums=0, compiler_options=options)
    found: Any = program.lower(state, problem.batch(0, 0), key).compile().memory_analysis()
    total = (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
    )
    sizes = (nbytes(state.params), nbytes(state.opt_state), found.temp_size_in_bytes, total)
    return tuple(size / 2**20 for size in sizes)


def main() -> None:
    """Prints the table."""
    print("# Bytes of a training step\n")
    print(f"From `experiments/peers/memory.py`, {time.strftime('%Y-%m-%d')}.")
    print(f"jax {importlib.metadata.version('jax')}, {platform.machine()}, {jax.default_backend()}")
    print("(XLA's CPU keeps many 16-bit values in float32; other backends need less for them).\n")
    print("| MiB | parameters | optimizer state | temporaries | all | of the first |")
    print("|---|---|---|---|---|---|")
    first = None
    for name, policy, changes in ROWS:
        *parts, total = measured(policy, changes)
        first = first or total
        cells = " | ".join(f"{part:.1f}" for part in (*parts, total))
        print(f"| {name} | {cells} | {total / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
