"""The arms' policies side by side: a role a column, what differs from the baseline marked."""

from __future__ import annotations

from typing import NamedTuple

from precis.policy import KEYS
from precis.report.facts import recipe_text
from precis.report.records import Role, Store


class RoleLine(NamedTuple):
    """The policy of one arm.

    Attributes:
        arm: Its name.
        given: The policy as written in the sweep file.
        recipe: What it changes in the recipe; may be empty.
        reason: Why the sweep has it; may be empty.
        formats: (format, whether it differs from the baseline's) a role; empty if not resolved.
    """

    arm: str
    given: str
    recipe: str
    reason: str
    formats: tuple[tuple[str, bool], ...]


class RoleTable(NamedTuple):
    """All arms' policies.

    Attributes:
        heads: (key, name) of each role, in the grammar's order.
        lines: One an arm, in the plan's order.
    """

    heads: tuple[tuple[str, str], ...]
    lines: tuple[RoleLine, ...]


def role_table(store: Store) -> RoleTable:
    """Which format each arm gives to each role, from the first of its trials that resolved it."""
    resolved = {arm.name: _resolved(store, arm.name) for arm in store.arms}
    base = {role.key: role.format for role in resolved.get(store.baseline, ())}
    first = {role.key: role for roles in resolved.values() for role in roles}
    first = [first[key] for key in KEYS if key in first]
    lines = []
    for arm in store.arms:
        own = {role.key: role.format for role in resolved[arm.name]}
        # Roles that only training has are blank in a quantized arm.
        cells = tuple(
            (own.get(r.key, ""), r.key in own and own[r.key] != base.get(r.key)) for r in first
        )
        formats = cells if own else ()
        lines.append(RoleLine(arm.name, arm.given, recipe_text(arm), arm.reason, formats))
    return RoleTable(tuple((role.key, role.role) for role in first), tuple(lines))


def _resolved(store: Store, arm: str) -> tuple[Role, ...]:
    return next((t.roles for t in store.trials if t.arm == arm and t.roles), ())
