"""Where a model asks for float32 itself: a second trace, with everything stored in few bits.

In a float32 trace, `dtype=float32` leaves nothing behind. Traced with bfloat16 arguments it does:
those matrix ops still see float32.
"""

from __future__ import annotations

from collections.abc import Callable

from precis.formats import BFLOAT16, FLOAT32, FloatFormat
from precis.policy import PolicyRules
from precis.walk.account import counted
from precis.walk.findings import Finding
from precis.walk.kinds import format_of
from precis.walk.program import Multiply, Program


def of_float32(again: Callable[[FloatFormat], Program], policies: PolicyRules) -> list[Finding]:
    """Matrix ops that stay in float32 where the model is traced in few bits.

    Args:
        again: Traces with all floats declared in this format, and plans.
        policies: Under which the model is audited.
    """
    compute = policies.base.compute
    if compute.bits >= FLOAT32.bits:
        return []
    is_native = isinstance(compute, FloatFormat) and compute.is_native
    declared = compute if is_native and isinstance(compute, FloatFormat) else BFLOAT16
    try:
        second = again(declared)
    except Exception as error:  # whatever the model does with a dtype that it does not expect
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:80]
        what = f"could not be traced in {declared} to find pins of f32: {reason}"
        return [Finding("pins f32", "the function", what, "")]
    found = []
    for step, _, _ in counted(second):
        if not isinstance(step.action, Multiply):
            continue
        path = step.action.site.path
        is_wide = all(format_of(atom.aval.dtype) == FLOAT32 for atom in step.eqn.invars[:2])
        if is_wide and policies.at(path).compute.bits < FLOAT32.bits:
            what = f"stays in f32 with all arguments in {declared}: the model may want that"
            fix = "to keep it, add a rule: '<path>: c=f32'"
            found.append(Finding("pins f32", path, what, fix))
    return found
