"""Reads compiled programs: which dtypes each dot and convolution really multiplies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_MARK = re.compile(r"precis\[([^\]]*)\]")
# What a name keeps as it is. XLA cuts names at `@`, and a bracket or quote would end the mark.
_PLAIN = re.compile(r"[^\w./+\- ]", re.ASCII)
_CODE = re.compile(r"~([0-9a-f]+)~")
_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
# `%dot.3 = f32[4,8]{1,0} dot(%a, %b), …`; older XLA repeats the operands' types.
_DEFINED = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = \(?(\w+)\[")
_PRODUCT = re.compile(r"\b(?:dot|convolution)\(([^)]*)\)")
# cuBLAS's, whose result may be a pair with a workspace; scales or a bias follow its two operands.
_CALL = re.compile(r'\bcustom-call\(([^)]*)\).*custom_call_target="__cublas\$')
_LAYOUT = re.compile(r"\{[^}]*\}|\[[^\]]*\]")
_OPERAND = re.compile(r"%?([\w.\-]+)(?=,|$)")
_HLO_NAMES = {"s8": "int8", "s32": "int32", "bf16": "bfloat16", "f16": "float16",
              "f32": "float32", "f64": "float64", "f8e4m3fn": "float8_e4m3fn",
              "f8e5m2": "float8_e5m2"}  # fmt: skip


class RanProduct(NamedTuple):
    """A dot or convolution of a compiled program, or a dot that XLA handed to cuBLAS.

    Attributes:
        path: The site that it belongs to; None if it does not say, as what XLA rewrote need not.
        lhs: Dtype of its first operand, as JAX names it.
        rhs: Of its second.
        out: Of its result.
        is_backward: Whether it is of a transpose; a forward product that is computed anew for
            the backward pass is not.
    """

    path: str | None
    lhs: str
    rhs: str
    out: str
    is_backward: bool


def mark_of(path: str) -> str:
    """The scope under which a site's op is emitted, so that it is found again.

    >>> mark_of("mlp/@dot0")
    'precis[mlp/~40~dot0]'
    """
    return f"precis[{_PLAIN.sub(lambda found: f'~{ord(found[0]):x}~', path)}]"


def products_in(hlo: str) -> Iterator[RanProduct]:
    """The matrix products of an optimized HLO module's text, those inside fusions included."""
    for computation in re.split(r"^\}", hlo, flags=re.MULTILINE):
        lines = computation.splitlines()
        types: dict[str, str] = {}
        for line in lines:
            types |= dict(_parameters(line))
            if found := _DEFINED.match(line):
                types[found[1]] = found[2]
        for line in lines:
            defined = _DEFINED.match(line)
            product = _PRODUCT.search(line) or _CALL.search(line)
            if not defined or not product:
                continue
            names = _OPERAND.findall(_LAYOUT.sub("", product[1]))
            lhs, rhs = (types.get(name, "unknown") for name in names[:2])
            name = _NAME.search(line)
            scope = name[1] if name else ""
            mark = _MARK.search(scope)
            yield RanProduct(
                _CODE.sub(lambda code: chr(int(code[1], 16)), mark[1]) if mark else None,
                *(_HLO_NAMES.get(t, t) for t in (lhs, rhs, defined[2])),
                is_backward="transpose(" in scope.rpartition("rematted_computation")[2],
            )


def _parameters(line: str) -> Iterator[tuple[str, str]]:
    """Names and dtypes of a computation's parameters, if the line is its head."""
    if "->" in line and line.rstrip().endswith("{"):
        yield from re.findall(r"%?([\w.\-]+): (\w+)\[", line)
