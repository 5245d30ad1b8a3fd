"""What an audit says in one line each, whatever it is printed on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from precis.report.words import first_few

_PRECISIONS = {
    "HIGHEST": "asks for full precision (HIGHEST)",
    "TF32": "multiplies in TF32 on GPUs that have it, elsewhere in full precision (HIGHEST)",
}
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(number: float) -> str:
    """A count with a unit: three digits are enough to compare by.

    >>> amount(285_212_672), amount(128)
    ('285 M', '128')
    """
    for size, letter in _UNITS:
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


def answer(record: Mapping[str, Any]) -> str:
    """How much of the function runs as the policy says."""
    if not record["flops"]:
        return "no matrix op: nothing to be in force of"
    parts = [f"in force for {record['in_force']:.1%} of {amount(record['flops'])} matrix FLOPs"]
    parts += [
        f"{record[key]:.1%} {words}"
        for key, words in (("pinned", "pinned by the model"), ("opaque", "in opaque calls"))
        if record[key]
    ]
    return ", ".join(parts)


def shares(record: Mapping[str, Any]) -> str:
    """FLOPs by the formats of the operands."""
    return ", ".join(f"{name} {share:.1%}" for name, share in record["shares"].items())


def ran(site: Mapping[str, Any]) -> str:
    """What a site's products really ran in, forward; then backward, where that differs."""
    if site["ran"] is None:
        return ""
    forward, backward = (" and ".join(site["ran"][way]) for way in ("forward", "backward"))
    if not forward:
        return "not found"
    return forward if backward in ("", forward) else f"{forward}, backward {backward}"


def listed(paths: Sequence[str], record: Mapping[str, Any]) -> str:
    """The first of several paths and how many more; `all matrix ops` if that is what they are."""
    if len(paths) > 1 and set(paths) == {site["path"] for site in record["sites"]}:
        return "all matrix ops"
    return first_few(paths)


def reasons(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Each reason, and whatever else has no column, with the paths of the ops that it is true of.

    Ops of one path count as one.
    """
    found: dict[str, dict[str, None]] = {}
    for site in record["sites"]:
        for said in (*site["reason"].split("; "), *_besides(site)):
            found.setdefault(said, {})[site["path"]] = None
    return {said: list(paths) for said, paths in found.items()}


def _besides(site: Mapping[str, Any]) -> Iterator[str]:
    cuda = site["on_cuda"]
    if not site["native"]:
        native = "" if cuda["product"] == site["product"] else f"; on CUDA {cuda['product']}"
        yield f"emulated, as {site['product']}{native}"
    if site["precision"] in _PRECISIONS:
        yield _PRECISIONS[site["precision"]]
    if site["accum"] not in ("f32", "f64"):
        yield f"leaves its accumulator in {site['accum']}"
    there = "" if cuda["backward"] == site["backward"] else _and(cuda["backward"])
    native = f"; on CUDA {there}" if there else ""
    yield f"backward in {site['grad']}, as {_and(site['backward'])}{native}"


def _and(products: Sequence[str]) -> str:
    return " and ".join(products)
