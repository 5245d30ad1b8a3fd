"""`audit`: what would run in which format, read off the plan, and what really ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from precis.formats import FLOAT32, FloatFormat
from precis.policy import Policy, PolicyRules, read_policy
from precis.walk import findings as find
from precis.walk.account import AuditedSite, counted, sites
from precis.walk.arguments import Argnums
from precis.walk.audit_record import audit_record
from precis.walk.autocast import trace
from precis.walk.compiled import Ran, compiled_products
from precis.walk.findings import Finding
from precis.walk.islands import Pins
from precis.walk.pins import of_float32
from precis.walk.program import Opaque, Program

# What a sweep's record repeats of the findings: why a policy is not all in force.
_NOTED = ("pinned", "opaque", "unknown", "uncounted")


@dataclass(frozen=True)
class Audit:
    """What a function would run under a policy, without running it.

    Attributes:
        policy: The policy, with its rules by path if there are any.
        sites: The matrix ops on which it has a hold or which the model pins, in program order.
        opaque_flops: Matrix FLOPs inside calls with a derivative rule of their own.
        findings: What a reader may not expect.
        ran: What each path's products ran in, if the function was compiled; else None.
    """

    policy: PolicyRules
    sites: tuple[AuditedSite, ...]
    opaque_flops: int
    findings: tuple[Finding, ...]
    ran: dict[str, Ran] | None = None

    @property
    def flops(self) -> int:
        """Matrix FLOPs of one call, forward pass only."""
        return sum(site.flops for site in self.sites) + self.opaque_flops

    @property
    def nbytes(self) -> int:
        """Bytes of matrix operands and results of one call, as they are carried."""
        return sum(site.nbytes for site in self.sites)

    @property
    def pinned(self) -> float:
        """Share of matrix FLOPs that run in a format which the model itself chose."""
        flops = sum(site.flops for site in self.sites if site.site.pinned)
        return flops / self.flops if self.flops else 0.0

    @property
    def opaque(self) -> float:
        """Share of matrix FLOPs in calls that run as they are written."""
        return self.opaque_flops / self.flops if self.flops else 0.0

    @property
    def in_force(self) -> float:
        """Share of matrix FLOPs that run as the policy says; 1 if there are none."""
        return 1.0 - self.pinned - self.opaque if self.flops else 1.0

    @property
    def otherwise(self) -> float:
        """Share of matrix FLOPs that the compiled program ran in other operands than was claimed.

        Wider ones count as the same, since they hold the same numbers; so do products that it does
        not name. 0 if the function was not compiled.
        """
        others = {
            path
            for path, ran in (self.ran or {}).items()
            if find.is_otherwise(ran.claimed, ran.forward, ran.besides)
        }
        flops = sum(site.flops for site in self.sites if site.site.path in others)
        return flops / self.flops if self.flops else 0.0

    @property
    def shares(self) -> dict[str, float]:
        """Share of matrix FLOPs by the formats of the operands, largest first."""
        flops: dict[str, int] = {"opaque": self.opaque_flops}
        for site in self.sites:
            flops[site.formats] = flops.get(site.formats, 0) + site.flops
        largest = sorted(flops, key=lambda name: -flops[name])
        return {name: flops[name] / self.flops for name in largest if flops[name]}

    @property
    def emulated(self) -> bool:
        """Whether some role's format has no dtype and rides on a wider carrier."""
        return self.policy.is_emulated

    @property
    def notes(self) -> tuple[str, ...]:
        """The findings that say why a policy is not all in force, or not all counted."""
        return tuple(str(finding) for finding in self.findings if finding.kind in _NOTED)

    def record(self) -> dict[str, Any]:
        """All of it as plain data, for JSON and for what prints it."""
        return audit_record(self)

    def require(self, share: float) -> None:
        """Raises ValueError, with the notes, if less than `share` is in force."""
        if self.in_force < share:
            notes = "; ".join(self.notes)
            raise ValueError(
                f"{self.policy} holds for {self.in_force:.1%} of the matrix FLOPs, "
                f"{share:.1%} is required: {notes}"
            )


def audit(
    fn: Callable[..., Any],
    *args: Any,
    policy: PolicyRules | Policy | str,
    params_argnums: Argnums = 0,
    state_argnums: Argnums = (),
    pins: Pins = "respect",
    compiled: bool = False,
    **kwargs: Any,
) -> Audit:
    """What `fn(*args, **kwargs)` would run under `policy`.

    Nothing is computed: `jax.ShapeDtypeStruct`s do as arguments. The other arguments are
    `autocast`'s.

    >>> import jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    >>> report = audit(lambda w, x: x @ w, jax.ShapeDtypeStruct((4, 2), jnp.float32), x,
    ...                policy="mixed_bf16")
    >>> report.flops, report.in_force, report.sites[0].product
    (128, 1.0, 'bf16·bf16→f32')

    Args:
        fn: As `autocast`.
        *args: Arrays or their shapes.
        policy: A policy, rules by path, or the text of either.
        params_argnums: As `autocast`.
        state_argnums: As `autocast`.
        pins: As `autocast`.
        compiled: Compile it for this backend as well, without excess precision, and read off the
            program what each product really multiplies; of a function with a scalar loss, the
            gradient with respect to the parameters too. That takes as long as compiling does.
        **kwargs: Likewise arguments of `fn`.
    """
    policies = read_policy(policy)

    def traced(declared: FloatFormat, pins: Pins) -> Program:
        options: dict[str, Any] = {"state_argnums": state_argnums, "pins": pins}
        traced = trace(fn, args, kwargs, policies, params_argnums, declared=declared, **options)
        return traced.program

    program = traced(FLOAT32, pins)
    found = tuple(sites(program))
    steps = list(counted(program))
    opaque = sum(s.action.flops * trips for s, _, trips in steps if isinstance(s.action, Opaque))
    findings = [
        *find.of_sites(found),
        *find.of_steps(steps, policies),
        *of_float32(lambda fmt: traced(fmt, "override"), policies),
    ]
    ran = None
    if compiled:
        options = {"params_argnums": params_argnums, "state_argnums": state_argnums, "pins": pins}
        products = compiled_products(fn, args, kwargs, policies, found, **options)
        findings += find.of_compiled(products)
        ran = products.ran
    return Audit(policies, found, opaque, find.merged(findings), ran)
