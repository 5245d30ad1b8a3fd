"""What a reader of an audit should look into, each with a way to mend it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from precis.formats import FLOAT32, FloatFormat, parse
from precis.ops import MATRIX_OPS, product_dtypes
from precis.policy import PolicyRules
from precis.walk import equations
from precis.walk.account import AuditedSite, Counted
from precis.walk.compiled import Compiled
from precis.walk.flops import kernels_in
from precis.walk.program import Cast, Cond, Opaque, Open, Program, Run, Step, While

# What a parameter that is an argument of its own is called; its path is empty.
BARE = "the parameter"


class Finding(NamedTuple):
    """Something in a plan that a reader may not expect.

    Attributes:
        kind: `pinned`, `pins f32`, `opaque`, `unknown`, `mixed operands`, `cast pair`,
            `redundant cast`, `low-precision sum`, `low-precision island`, `dequantized`,
            `uncounted`; of a compiled program `widened`, `ran otherwise`, `not found` or `unnamed`.
        where: The path of a matrix op, or the scope at which an equation was traced.
        what: What happens there.
        fix: What to do if that is not wanted; "" if there is nothing to do.
    """

    kind: str
    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def of_sites(found: Iterable[AuditedSite]) -> Iterator[Finding]:
    """Findings about single matrix ops."""
    for audited in found:
        site, roles = audited.site, audited.roles
        if site.pinned:
            what = f"computes in {audited.formats}, whatever the policy"
            yield Finding("pinned", site.path, what, "pins='override', or leave dtype= out")
        is_stored = roles.lhs.stored or roles.rhs.stored
        is_one = len({str(dtype) for dtype in audited.claimed}) == 1
        if is_one and not is_stored and _is_mixed(audited):
            what = f"{audited.formats} have no product in common: it runs as {audited.product}"
            one = roles.lhs.format
            rule = f", as in '{site.path}: c={one},k={one}'" if site.path else ""
            fix = "cast one of them in the model" if site.pinned else f"give both one format{rule}"
            yield Finding("mixed operands", site.path, what, fix)


def _is_mixed(audited: AuditedSite) -> bool:
    """Whether operands meet that have different dtypes."""
    formats = (audited.roles.lhs.format, audited.roles.rhs.format)
    return len({product_dtypes(fmt, fmt).lhs for fmt in formats}) == 2


def of_steps(steps: Iterable[Counted], policies: PolicyRules) -> Iterator[Finding]:
    """Findings about all other equations."""
    for step, program, _ in steps:
        name, where = step.eqn.primitive.name, equations.scope_of(step.eqn) or "top level"
        match step.action:
            case Opaque(_, _, flops) if flops:
                hidden = equations.contains(step.eqn, frozenset({"while"})) or kernels_in(step.eqn)
                least = "at least " if hidden else ""
                what = f"runs as written, whatever the policy ({least}{flops:,} matrix FLOPs)"
                yield Finding("opaque", f"{name} at {where}", what, "write it without custom_vjp")
            case Opaque() if kernels := kernels_in(step.eqn):
                what = f"runs {', '.join(sorted(kernels))} as written; its FLOPs are not known"
                yield Finding("uncounted", f"{name} at {where}", what, "")
            case Opaque() if name not in equations.KNOWN and not equations.is_opaque_call(step.eqn):
                what = "unknown to the walker, and runs as written"
                yield Finding("unknown", f"{name} at {where}", what, "")
            case While() if equations.contains(step.eqn, MATRIX_OPS):
                what = "its number of trips is not known, and counted as one"
                yield Finding("uncounted", f"{name} at {where}", what, "")
            case Cond() if equations.contains(step.eqn, MATRIX_OPS):
                what = "one of its branches runs; the costliest is counted"
                yield Finding("uncounted", f"{name} at {where}", what, "")
            case Open(paths):
                what = f"{', '.join(path or BARE for path in paths)} is dequantized for it"
                fix = "keep this parameter in float, or leave it to matrix ops"
                yield Finding("dequantized", f"{name} at {where}", what, fix)
            case Run(work) if work.bits < FLOAT32.bits:
                yield from _of_low(step.eqn, work, policies, where)
            case Cast(out):
                yield from _of_cast(program, step, out, where)
            case _:
                pass


def _of_low(eqn: Any, work: FloatFormat, policies: PolicyRules, where: str) -> Iterator[Finding]:
    name = eqn.primitive.name
    is_sum = name in equations.SUMS
    if not is_sum and not equations.opens_island(eqn):
        return
    s_is_low = policies.base.sensitive.bits < FLOAT32.bits
    fix = "set s=f32" if s_is_low else "pins='override', or compute this part in float32"
    kind = "low-precision sum" if is_sum else "low-precision island"
    yield Finding(kind, where, f"{name} runs in {work}", fix)


def _of_cast(program: Program, step: Step, out: FloatFormat, where: str) -> Iterator[Finding]:
    (source,) = step.inputs
    before = program.values[source].format
    if step.eqn.invars[0].aval.dtype == step.eqn.outvars[0].aval.dtype:
        return  # of a number's weak type alone
    if before == out:
        what = f"a cast to {out} of what is in {out} already"
        yield Finding("redundant cast", where, what, "leave it out")
        return
    maker = next((s for s in program.steps if source in s.outputs), None)
    if maker is None or not isinstance(maker.action, Cast) or before is None:
        return
    first = program.values[maker.inputs[0]].format
    if first == out and before.bits < out.bits:
        what = f"{out} → {before} → {out} rounds, and saves nothing"
        yield Finding("cast pair", where, what, "leave both out, or let the policy round")


def merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each finding once, those that differ in nothing but the place together."""
    places: dict[tuple[str, str, str], dict[str, None]] = defaultdict(dict)
    for finding in findings:
        places[finding.kind, finding.what, finding.fix][finding.where] = None
    return tuple(
        Finding(kind, ", ".join(path or BARE for path in where), what, fix)
        for (kind, what, fix), where in places.items()
    )


def of_compiled(found: Compiled) -> Iterator[Finding]:
    """Findings about products that the compiled program has otherwise than was asked for."""
    for path, ran in found.ran.items():
        if not ran.forward:
            claimed = " and ".join(ran.claimed)
            what = f"claims {claimed}; the compiled program has no product of that name"
            fix = "it may be unused, folded to a constant, or rewritten by the compiler"
            yield Finding("not found", path, what, fix)
        yield from _otherwise(path, ran.claimed, ran.forward, ran.besides, "")
        if (ran.claimed_backward, set(ran.backward)) != (ran.claimed, set(ran.forward)):
            claimed = ran.claimed_backward
            yield from _otherwise(path, claimed, ran.backward, ran.besides, " backward")
    if found.unnamed:
        ran_in = ", ".join(f"{count} ran {text}" for text, count in found.unnamed.items())
        what = f"{ran_in}, without the name of a matrix op: whose they are is not known"
        yield Finding("unnamed", "the compiled program", what, "")


def _otherwise(
    path: str, claimed: Sequence[str], ran: Collection[str], besides: Sequence[str], way: str
) -> Iterator[Finding]:
    others = [text for text in ran if text not in (*claimed, *besides)]
    if not others:
        return
    what = f"claimed {' and '.join(claimed)}{way}, ran {', '.join(others)}"
    if not is_otherwise(claimed, ran, besides):
        fix = "the same operands, but not as fast: the backend has no such product here"
        yield Finding("widened", path, what, fix)
    else:
        yield Finding("ran otherwise", path, what, "")


def is_otherwise(claimed: Sequence[str], ran: Collection[str], besides: Sequence[str] = ()) -> bool:
    """Whether products ran that are neither those claimed nor their like in wider operands.

    Args:
        claimed: What is asked for.
        ran: What ran.
        besides: What may run as well.
    """
    others = [text for text in ran if text not in (*claimed, *besides)]
    return bool(others) and min(map(_bits, others)) <= max(map(_bits, claimed))


def _bits(product: str) -> int:
    """Bits of the narrower operand of a product as text.

    >>> _bits("bf16·f32→f32"), _bits("e4m3fn·e5m2→f32")
    (16, 8)
    """
    return min(map(_width, product.partition("→")[0].split("·")))


def _width(name: str) -> int:
    try:
        return parse(name).bits
    except ValueError:  # of a dtype that is no format here
        return 0
