"""`audit`: what would run in which format, read off the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from precis.ops import MATRIX_OPS
from precis.policy import Policy, PolicyRules, read_policy
from precis.walk import equations
from precis.walk.autocast import Argnums, trace
from precis.walk.islands import Pins
from precis.walk.program import Multiply, Opaque, Program, Scan, Site, Step, While, bodies


class AuditedSite(NamedTuple):
    """A matrix op, and how often it runs in one call of the function."""

    site: Site
    trips: int

    @property
    def flops(self) -> int:
        """Floating-point operations of all its runs."""
        return self.site.flops * self.trips


@dataclass(frozen=True)
class Audit:
    """What a function would run under a policy, without running it.

    Attributes:
        policy: The policy.
        sites: The matrix ops on which it has a hold or which the model pins, in program order.
        opaque_flops: Matrix FLOPs inside calls with a derivative rule of their own.
        notes: What a reader should know: pinned sites, opaque calls, unknown primitives.
    """

    policy: PolicyRules
    sites: tuple[AuditedSite, ...]
    opaque_flops: int
    notes: tuple[str, ...]

    @property
    def flops(self) -> int:
        """Matrix FLOPs of one call, forward pass only."""
        return sum(site.flops for site in self.sites) + self.opaque_flops

    @property
    def pinned(self) -> float:
        """Share of matrix FLOPs that run in a format which the model itself chose."""
        flops = sum(site.flops for site in self.sites if site.site.pinned)
        return flops / self.flops if self.flops else 0.0

    @property
    def in_force(self) -> float:
        """Share of matrix FLOPs that run as the policy says; 1 if there are none."""
        if not self.flops:
            return 1.0
        return 1.0 - self.pinned - self.opaque_flops / self.flops

    @property
    def emulated(self) -> bool:
        """Whether some role's format has no dtype and rides on a wider carrier."""
        return self.policy.is_emulated

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
    **kwargs: Any,
) -> Audit:
    """What `fn(*args, **kwargs)` would run under `policy`.

    Nothing is computed: `jax.ShapeDtypeStruct`s do as arguments. The other arguments are
    `autocast`'s.

    >>> import jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    >>> report = audit(lambda w, x: x @ w, jax.ShapeDtypeStruct((4, 2), jnp.float32), x,
    ...                policy="mixed_bf16")
    >>> report.flops, report.in_force
    (128, 1.0)
    """
    resolved = read_policy(policy)
    traced = trace(
        fn, args, kwargs, resolved, params_argnums, state_argnums=state_argnums, pins=pins
    )
    sites: list[AuditedSite] = []
    notes: dict[str, None] = {}
    opaque = 0
    for step, trips in _steps(traced.program, 1):
        name = step.eqn.primitive.name
        match step.action:
            case Multiply(_, site):
                sites.append(AuditedSite(site, trips))
                if site.pinned:
                    notes[f"{site.path}: computes in {site.pinned}, whatever the policy"] = None
            case Opaque(_, _, flops):
                opaque += flops * trips
                if flops:
                    notes[f"{name}: runs as written, whatever the policy"] = None
                elif name not in equations.KNOWN and not equations.is_opaque_call(step.eqn):
                    notes[f"{name}: unknown to the walker, runs as written"] = None
            case While() if equations.contains(step.eqn, MATRIX_OPS):
                notes[f"{name}: its number of trips is not known, and counted as one"] = None
            case _:
                pass
    return Audit(resolved, tuple(sites), opaque, tuple(notes))


def _steps(program: Program, trips: int) -> Iterator[tuple[Step, int]]:
    for step in program.steps:
        yield step, trips
        inside = trips * step.eqn.params["length"] if isinstance(step.action, Scan) else trips
        for body in bodies(step.action):
            yield from _steps(body, inside)
