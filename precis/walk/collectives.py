"""Reads compiled programs: what travels between devices, in which dtype and how many bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_KINDS = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
# `%all-gather.3 = u8[8192]{0} all-gather(%fusion), …`; several arrays at once are a tuple.
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+(\d+)\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """A collective of a compiled program.

    Attributes:
        kind: `all-reduce`, `all-gather`, `all-to-all`, `reduce-scatter` or `collective-permute`.
        dtype: What travels, in XLA's word: `u8`, `bf16`, `f32`.
        size: Entries of its result on one device, of all its arrays.
        sent_bytes: What each device sends at least: as a ring's all-reduce does, and everyone who
            sends each other device its own part.
    """

    kind: str
    dtype: str
    size: int
    sent_bytes: float


def collectives_in(hlo: str, devices: int) -> Iterator[Collective]:
    """The collectives of an optimized HLO module's text, each once, however often it runs.

    Args:
        hlo: The text, as of `compiled.as_text()`.
        devices: How many take part in each of them.

    Raises:
        ValueError: One is split into start and done, which is not read.
    """
    for line in hlo.splitlines():
        found = _COLLECTIVE.search(line)
        if not found:
            continue
        result, kind, start = found.groups()
        if start:
            raise ValueError(f"asynchronous collectives are not read: {line.strip()}")
        sizes: dict[str, int] = {}
        sent = 0.0
        for dtype, bits, shape in _ARRAY.findall(result):
            size = math.prod(map(int, filter(None, shape.split(","))))
            sizes[dtype] = sizes.get(dtype, 0) + size
            sent += _times_sent(kind, devices) * size * int(bits) / 8
        yield Collective(kind, "+".join(sizes), sum(sizes.values()), sent)


def _times_sent(kind: str, devices: int) -> float:
    """How much of its result a device sends."""
    others = (devices - 1) / devices
    match kind:
        case "all-reduce":  # scattered sums, then gathered
            return 2 * others
        case "reduce-scatter":  # of which the result is one part
            return devices - 1
        case "collective-permute":
            return 1
        case _:
            return others
