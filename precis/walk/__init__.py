"""The walker: carries a policy into any function, and says what would run."""

from precis.walk.account import AuditedSite
from precis.walk.audit import Audit, audit
from precis.walk.autocast import autocast
from precis.walk.collectives import Collective, collectives_in
from precis.walk.compiled import Ran
from precis.walk.findings import Finding
from precis.walk.observe import Layout, Product, Reading, observed
from precis.walk.program import Site

__all__ = [
    "Audit",
    "AuditedSite",
    "Collective",
    "Finding",
    "Layout",
    "Product",
    "Ran",
    "Reading",
    "Site",
    "audit",
    "autocast",
    "collectives_in",
    "observed",
]
