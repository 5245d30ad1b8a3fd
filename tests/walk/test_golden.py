"""The plan of each built-in model, line by line, against a committed copy.

A change here is a change of what the walker decides, and needs a reason. To write the copies
anew: `python -m pytest tests/walk/test_golden.py --golden`.
"""

from pathlib import Path

import jax
import pytest

from precis.policy import read_policy
from precis.train.task import load_task
from precis.walk.autocast import trace
from precis.walk.program import Cast, Multiply, Opaque, Program, Rearrange, Run, bodies

from .models import decode, decode_init

MODELS = [("digits", "mlp"), ("digits", "cnn"), ("text", "decoder")]
FOLDER = Path(__file__).parent / "golden"


def lines(program: Program, indent: str = ""):
    """One line an equation: what goes in, what is done, what comes out."""

    def show(slot):
        value = program.values[slot]
        if slot in program.constants:
            return "constant"
        shape = "×".join(map(str, value_shapes[slot])) or "scalar"
        return f"{value.kind.value}:{value.format or '-'}[{shape}]"

    value_shapes = {}
    for step in program.steps:
        for slot, atom in zip(step.inputs, step.eqn.invars, strict=True):
            value_shapes[slot] = atom.aval.shape
        for slot, var in zip(step.outputs, step.eqn.outvars, strict=True):
            value_shapes[slot] = var.aval.shape
    for step in program.steps:
        if not any(program.values[slot].format for slot in (*step.inputs, *step.outputs)):
            continue
        what = f"{step.eqn.primitive.name} {decision(step.action)}"
        into = ", ".join(map(show, step.inputs))
        yield f"{indent}{what}: {into} -> {', '.join(map(show, step.outputs))}"
        for body in bodies(step.action):
            yield from lines(body, indent + "    ")
    ends = (f"{show(s)} as {fmt}" if s in value_shapes else "input" for s, fmt in program.outputs)
    yield f"{indent}out: {', '.join(ends)}"


def decision(action) -> str:
    match action:
        case Run(work):
            return f"in {work}"
        case Rearrange(out):
            return f"moves {out}"
        case Cast(out):
            return f"to {out}"
        case Multiply(roles, site):
            lhs, rhs = roles.lhs, roles.rhs
            grads = "·".join(dict.fromkeys(map(str, roles.grads)))
            return (
                f"{site.path} {lhs.format}·{rhs.format}, a={roles.accum}, out={roles.out}, "
                f"g={grads}, grads {lhs.grad} {rhs.grad}"
            )
        case Opaque():
            return "as it is"
        case _:
            return "enters"


@pytest.mark.parametrize(("task", "model"), MODELS)
def test_plan_is_the_committed_one(task, model, request):
    loaded = load_task(task, model)
    with jax.numpy_dtype_promotion("standard"):  # flax relies on it
        params, state = jax.eval_shape(loaded.init, jax.random.key(0))
        traced = trace(
            loaded.loss,
            (params, state, loaded.batch(0, 0)),
            {"key": jax.random.key(0), "train": True},
            read_policy("mixed_bf16"),
            state_argnums=1,
        )
    compare(traced.program, f"{task}-{model}", request)


def test_plan_of_a_decoding_loop_is_the_committed_one(request):
    params = decode_init(jax.random.key(0))
    token = jax.ShapeDtypeStruct((), "int32")
    program = trace(decode, (params, token), {}, read_policy("mixed_bf16")).program
    compare(program, "decode", request)


def compare(program, name, request):
    text = "\n".join(lines(program)) + "\n"
    path = FOLDER / f"{name}-mixed_bf16.txt"
    if request.config.getoption("--golden"):
        path.write_text(text)
    assert text == path.read_text()
