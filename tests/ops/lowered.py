"""What a program asks of a backend that this machine has not: read off what it is lowered to."""

import re
from typing import NamedTuple

import jax
from jax import export

_DOT = re.compile(
    r"(%\S+) = stablehlo\.dot_general .*?precision = \[(\w+), \w+\][^:]*"
    r": \(tensor<(\S+)>, tensor<(\S+)>\) -> tensor<(\S+)>"
)
_SHORT = {"f8E4M3FN": "e4m3fn", "f8E5M2": "e5m2"}


class Dot(NamedTuple):
    """A dot of a lowered program: dtypes of its operands and of its result, and its precision."""

    lhs: str
    rhs: str
    out: str
    precision: str


def text_of(fn, *args, platform="cuda"):
    """The StableHLO of `fn(*args)` for a platform."""
    return jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def dots_of(fn, *args, platform="cuda"):
    """Its dots, in the order of the text; the body of a loop counts once."""
    found = _DOT.findall(text_of(fn, *args, platform=platform))
    return [
        Dot(*(_SHORT.get(dtype, dtype) for dtype in (_last(lhs), _last(rhs), _last(out))), asked)
        for _, asked, lhs, rhs, out in found
    ]


def run_as_on_cuda(fn, *args):
    """What the program for CUDA makes of `args`, run by this machine's own backend.

    XLA's CPU widens float8 dots; all else of such a program it has.
    """
    anywhere = [export.DisabledSafetyCheck.platform()]
    program = export.export(jax.jit(fn), platforms=("cuda",), disabled_checks=anywhere)(*args)
    return jax.jit(program.call)(*args)


def _last(tensor):
    return tensor.rpartition("x")[2]
