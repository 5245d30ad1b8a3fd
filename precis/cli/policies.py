"""The command `policy`: what a policy's text resolves to."""

from __future__ import annotations

import tyro

from precis.cli.console import open_console


def policy(text: tyro.conf.Positional[str]) -> int:
    """Print what a policy's text resolves to: every role, its format and why.

    Args:
        text: A preset (mixed_bf16), roles (p=f32,c=bf16,o=f32), or one format; then rules by
            path, if any (mixed_bf16; head/**: c=f32).
    """
    from rich.markup import escape
    from rich.table import Table

    from precis.policy import read_policy

    resolved = read_policy(text)
    table = Table(box=None, pad_edge=False)
    for heading in ("key", "role", "format", "reason"):
        table.add_column(heading)
    for role in resolved.roles():
        table.add_row(*role)
    console = open_console()
    console.print(f"[bold]{escape(str(resolved))}[/]", highlight=False)
    console.print(table, highlight=False)
    if any(role.key == "r" and role.reason == "given" for role in resolved.roles()):
        console.print("r is for gradients between devices: on one device it changes nothing")
    for rule in resolved.rules:
        console.print(f"at {rule}", highlight=False, markup=False)
    return 0
