"""Writes a store as a sweep would leave it, from made-up trajectories: the same bytes each time."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SEEDS = (0, 1, 2)
F32 = "p=f32,c=f32,o=f32"
ROLES = {
    "p": "param",
    "c": "compute",
    "k": "kernel",
    "x": "activation",
    "o": "output",
    "a": "accum",
    "g": "grad",
    "w": "weight_grad",
    "s": "sensitive",
    "r": "reduce",
    "m": "m",
    "v": "v",
}


@dataclass(frozen=True)
class Made:
    """How a made-up arm behaves: `harm` is added to the metric (times the task's scale)."""

    name: str
    given: str
    formats: dict[str, str] = field(default_factory=dict)
    harm: float = 0.0
    eval_harm: float = 0.0
    jitter: float = 0.001
    grad_zero: float = 0.01
    update_lost: float = 0.002
    loss_scale: bool = False
    skipped: int = 0
    in_force: float = 1.0
    emulated: bool = False
    step_ms: float = 12.0
    bytes_share: float = 1.0
    diverges: dict[int, int] = field(default_factory=dict)
    states: dict[int, str] = field(default_factory=dict)
    recipe: dict[str, object] = field(default_factory=dict)
    rules: tuple[tuple[str, str, str], ...] = ()


BF16 = dict.fromkeys("ckxg", "bf16")
F16 = dict.fromkeys("ckxg", "f16")
ARMS = (
    Made("f32", "f32", jitter=0.0),
    Made("f32+ulp", "f32", jitter=0.0012),
    Made("mixed_bf16", "mixed_bf16", BF16, harm=0.004, step_ms=7.3),
    Made(
        "bf16",
        "bf16",
        BF16 | dict.fromkeys("powmv", "bf16"),
        harm=0.14,
        jitter=0.01,
        update_lost=0.37,
        step_ms=6.1,
        bytes_share=0.5,
    ),
    Made(
        "mixed_f16",
        "mixed_f16",
        F16,
        harm=0.002,
        jitter=0.007,
        loss_scale=True,
        skipped=3,
        step_ms=8.8,
    ),
    Made(
        "f16 unscaled",
        "mixed_f16",
        F16,
        grad_zero=0.31,
        step_ms=8.6,
        diverges={0: 120, 1: 140, 2: 120},
        recipe={"loss_scale": "none"},
    ),
    Made(
        "e5m3",
        "c=e5m3,p=f32,o=f32",
        dict.fromkeys("ckg", "e5m3") | {"x": "bf16"},
        harm=0.06,
        eval_harm=0.03,
        jitter=0.008,
        emulated=True,
        step_ms=61.0,
    ),
    Made("pinned", "bf16", BF16, harm=0.001, in_force=0.5),
    Made("crashed", "mixed_bf16", BF16, jitter=0.03, states={1: "failed", 2: "pending"}),
)
TASKS = {
    "text": {
        "name": "text",
        "model": "decoder",
        "metric": "eval_loss",
        "direction": "min",
        "unit": "bits/byte",
        "tolerance": 0.02,
        "tolerance_is_default": False,
        "steps": 300,
        "facts": {"train_files": 612, "eval_files": 68, "sha256": "9f2c51"},
    },
    "digits-mlp": {
        "name": "digits",
        "model": "mlp",
        "metric": "accuracy",
        "direction": "max",
        "unit": "",
        "tolerance": None,
        "tolerance_is_default": True,
        "steps": 200,
        "facts": {},
    },
}


def write_store(folder: Path, arms=ARMS, tasks=TASKS, seeds=SEEDS) -> Path:
    """A sweep's folder with a plan, an environment and what each trial got to write."""
    folder.mkdir(parents=True, exist_ok=True)
    trials = [
        {
            "dir": f"{label}-{made.name.replace(' ', '_')}-s{seed}-0000",
            "task": label,
            "arm": made.name,
            "seed": seed,
            "digest": "0000",
        }
        for label in tasks
        for made in arms
        for seed in seeds
    ]
    plan = {
        "name": "quickstart",
        "created": "2026-01-02T03:04:05Z",
        "baseline": "f32",
        "noise_floor": "f32+ulp",
        "tasks": tasks,
        "arms": [arm_entry(made) for made in arms],
        "seeds": list(seeds),
        "trials": trials,
    }
    dump(folder / "plan.json", plan)
    dump(folder / "env.json", ENVIRONMENT)
    by_name = {made.name: made for made in arms}
    for number, entry in enumerate(trials):
        made, task = by_name[entry["arm"]], tasks[entry["task"]]
        write_trial(folder / entry["dir"], made, task, entry["seed"], number)
    return folder


ENVIRONMENT = {
    "python": "3.11.9",
    "jax": "0.10.2",
    "jaxlib": "0.10.2",
    "flax": "0.12.8",
    "optax": "0.2.8",
    "ml_dtypes": "0.6.0",
    "numpy": "2.4.6",
    "precis": "0.1.0",
    "fingerprint": "abc123",
    "platform": "Linux-6.1-x86_64",
    "device": "cpu",
    "cores": 2,
    "compiler_options": {"xla_allow_excess_precision": False},
    "workers": 1,
}


def arm_entry(made: Made) -> dict:
    policy = F32 if not made.formats else ",".join(f"{k}={v}" for k, v in made.formats.items())
    return {
        "name": made.name,
        "policy": policy,
        "given": made.given,
        "emulated": made.emulated,
        "recipe": made.recipe,
        "reason": "dynamic loss scale: g=f16 has 5 exponent bits" if made.loss_scale else "",
    }


def write_trial(here: Path, made: Made, task: dict, seed: int, number: int) -> None:
    state = made.states.get(seed, "diverged" if seed in made.diverges else "finished")
    if state == "pending":
        return
    here.mkdir()
    steps = task["steps"]
    end = made.diverges.get(seed, steps // 3 if state in ("failed", "interrupted") else steps)
    dump(here / "config.json", {})
    dump(here / "policy.json", policy_entry(made))
    error = "ValueError: [x] the kernel has 3 axes, 2 wanted" if state == "failed" else None
    if error:
        (here / "traceback.txt").write_text(
            f'Traceback (most recent call last):\n  File "task.py", line 12, in loss\n{error}\n'
        )
    dump(
        here / "status.json",
        {
            "state": state,
            "step": end,
            "steps": steps,
            "error": error,
            "updated": "2026-01-02T03:05:05Z",
            "fingerprint": "abc123",
        },
    )
    rows, final = trajectory(made, task, seed, end, number, diverged=state == "diverged")
    (here / "metrics.jsonl").write_text("".join(json.dumps(strict(row)) + "\n" for row in rows))
    if state in ("finished", "diverged"):
        dump(here / "summary.json", summary(made, task, seed, end, final, state))


def policy_entry(made: Made) -> dict:
    roles = [
        {
            "key": key,
            "role": role,
            "format": made.formats.get(key, "f32"),
            "reason": "given" if key in made.formats else "default",
        }
        for key, role in ROLES.items()
    ]
    notes = ["2 of 4 dots are pinned to float32 by the model"] if made.in_force < 1 else []
    return {
        "policy": arm_entry(made)["policy"],
        "roles": roles,
        "rules": [
            {"pattern": pattern, "key": key, "role": ROLES[key], "format": fmt}
            for pattern, key, fmt in made.rules
        ],
        "in_force": made.in_force,
        "pinned": 1 - made.in_force,
        "matrix_flops": 123456789,
        "emulated": made.emulated,
        "notes": notes,
    }


def trajectory(made, task, seed, end, number, *, diverged):
    """The rows of metrics.jsonl, and the (own, f32) metric at the end."""
    shared, own = np.random.default_rng(seed), np.random.default_rng([7, number])
    level = 2.2 + 0.05 * seed
    rows, metric = [], (math.nan, math.nan)
    for step in range(10, end + 1, 10):
        share = step / task["steps"]
        noise = shared.normal(0, 0.02)
        drift = made.harm * share + made.jitter * own.normal() * min(1, 3 * share)
        loss = level + 3.0 * math.exp(-6 * share) + noise + drift
        row = {"step": step, "loss": loss, "grad_norm": 1.0 + share}
        row |= {"grad_zero": made.grad_zero, "update_lost": made.update_lost}
        if made.loss_scale:
            # A step is skipped every 30, and the scale halved, until it is where it should be.
            skipped = min(step // 30, made.skipped)
            scale = 32768.0 * 2.0 ** (made.skipped - skipped)
            row |= {"loss_scale": scale, "skipped": skipped}
        if diverged and step == end:
            row |= {"loss": math.nan, "grad_norm": math.inf}
        rows.append(row)
        if step % 100 == 0:
            metric = evaluated(made, task, level + drift)
            name = task["metric"]
            rows.append(
                {"step": step, "eval": {"own": {name: metric[0]}, "f32": {name: metric[1]}}}
            )
    return rows, (math.nan, math.nan) if diverged else metric


def evaluated(made, task, level):
    if task["direction"] == "max":
        return 1.2 - 0.1 * level - 0.1 * made.eval_harm, 1.2 - 0.1 * level
    return level + made.eval_harm, level


def summary(made, task, seed, end, final, state):
    return {
        "metric": final[0],
        "metric_f32": final[1],
        "metrics": {task["metric"]: final[0]},
        "train_loss": final[0],
        "step_ms_median": made.step_ms + 0.1 * seed,
        "step_ms_p10": made.step_ms * 0.96,
        "step_ms_p90": made.step_ms * 1.11,
        "compile_s": 2.5,
        "param_bytes": int(3_281_920 * (made.bytes_share if made.formats else 1)),
        "opt_bytes": int(6_563_848 * (made.bytes_share if made.formats else 1)),
        "skipped": made.skipped,
        "applied": end - made.skipped,
        "diverged_at": end - 3 if state == "diverged" else None,
        "grad_zero_median": made.grad_zero,
        "update_lost_median": made.update_lost,
        "loss_scale_final": 32768.0 if made.loss_scale else None,
    }


def strict(tree):
    """The tree as strict JSON has it: what is not finite is a word."""
    if isinstance(tree, dict):
        return {key: strict(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [strict(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return "NaN" if math.isnan(tree) else "Infinity" if tree > 0 else "-Infinity"
    return tree


def dump(path: Path, tree) -> None:
    path.write_text(json.dumps(strict(tree), allow_nan=False, indent=1))
