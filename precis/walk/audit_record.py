"""An audit as plain data, with the reason for each decision in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from precis.ops import Operand
from precis.walk.account import AuditedSite
from precis.walk.findings import BARE

if TYPE_CHECKING:
    from precis.walk.audit import Audit


def audit_record(found: Audit) -> dict[str, Any]:
    """`found` as JSON can hold it: figures first, then the sites, then the findings."""
    return {
        "policy": str(found.policy),
        "in_force": found.in_force,
        "pinned": found.pinned,
        "opaque": found.opaque,
        "flops": found.flops,
        "bytes": found.nbytes,
        "emulated": found.emulated,
        "shares": found.shares,
        "sites": [_site(found, audited) for audited in found.sites],
        "findings": [finding._asdict() for finding in found.findings],
    }


def _site(found: Audit, audited: AuditedSite) -> dict[str, Any]:
    site, roles = audited.site, audited.roles
    ran = (found.ran or {}).get(site.path)
    return {
        "path": site.path or BARE,
        "others": list(site.others),
        "op": site.primitive,
        "scope": site.scope,
        "lhs": _operand(roles.lhs, site.lhs),
        "rhs": _operand(roles.rhs, site.rhs),
        "operands": audited.formats,
        "product": audited.product,
        "native": audited.is_native,
        "precision": audited.precision,
        "accum": str(roles.accum),
        "out": str(roles.out),
        "grad": audited.grads,
        "trips": audited.trips,
        "flops": audited.flops,
        "bytes": audited.nbytes,
        "rule": site.rule,
        "reason": "; ".join(_reasons(found, audited)),
        "backward": list(audited.backward),
        "on_cuda": {"product": audited.on_cuda, "backward": list(audited.backward_on_cuda)},
        "ran": None if ran is None else {"forward": ran.forward, "backward": ran.backward},
    }


def _operand(operand: Operand, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "role": "kernel" if operand.is_weight else "activation",
        "format": str(operand.format),
        "cotangent": str(operand.grad),
        "shape": list(shape),
    }


def _reasons(found: Audit, audited: AuditedSite) -> Iterator[str]:
    site, roles = audited.site, audited.roles
    if site.pinned:
        yield f"the model asks for {site.pinned}"
    elif roles.lhs.is_weight and roles.rhs.is_weight:
        yield "a product of parameters alone, as written"
    else:
        yield f"rule {site.rule!r}" if site.rule else "the policy"
    for operand in (roles.lhs, roles.rhs):
        if operand.stored is not None:
            how = "its codes multiply" if operand.stored == operand.format else "dequantized here"
            yield f"stored as {operand.stored}: {how}"
    if site.others:
        yield f"also made of {', '.join(site.others)}"
    if roles.out == roles.accum != found.policy.base.activation and not site.pinned:
        yield "feeds an island: handed over unrounded"
    if not audited.trips:
        yield "in a branch that is not counted"
