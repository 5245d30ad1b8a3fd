"""An audit in a terminal, eighty columns wide or more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from precis.report.audit_words import amount, answer, listed, ran, reasons, shares


def print_audit(record: Mapping[str, Any], console: Console, *, title: str = "") -> None:
    """Prints the record of an audit: the answer, the matrix ops, why, and what to look into."""
    console.print(Text.assemble((title, "bold"), "  " if title else "", (record["policy"], "cyan")))
    console.print(Text(answer(record), "bold green" if record["in_force"] == 1 else "bold yellow"))
    if not record["sites"]:
        return
    console.print(Text(f"by operands: {shares(record)}; {amount(record['bytes'])}B carried"))
    console.print(_table(record))
    for reason, paths in reasons(record).items():
        console.print(Text.assemble((f"{reason}: ", "bold"), listed(paths, record)))
    for finding in record["findings"]:
        console.print(Text.assemble(("! ", "yellow"), (finding["kind"], "bold yellow")))
        where = listed(finding["where"].split(", "), record)
        console.print(Padding(Text(f"{where}: {finding['what']}"), (0, 0, 0, 2)))
        if finding["fix"]:
            console.print(Padding(Text(f"→ {finding['fix']}", "dim"), (0, 0, 0, 2)))


def _table(record: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    is_compiled = any(site["ran"] is not None for site in record["sites"])
    table.add_column("matrix op", overflow="fold", min_width=16)
    table.add_column("operands", overflow="fold")
    table.add_column("ran" if is_compiled else "product", overflow="fold")
    table.add_column("out")
    table.add_column("×", justify="right")
    table.add_column("FLOPs", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    for site in record["sites"]:
        product = ran(site) if is_compiled else site["product"]
        style = "yellow" if is_compiled and not product.startswith(site["product"]) else ""
        table.add_row(
            Text(site["path"]),
            Text(site["operands"], "" if site["native"] else "italic"),
            Text(product, style),
            site["out"],
            str(site["trips"]),
            amount(site["flops"]),
            amount(site["bytes"]),
        )
    return table
