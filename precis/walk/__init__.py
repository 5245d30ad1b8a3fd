"""The walker: carries a policy into any function, and says what would run."""

from precis.walk.audit import Audit, AuditedSite, audit
from precis.walk.autocast import autocast
from precis.walk.program import Site

__all__ = ["Audit", "AuditedSite", "Site", "audit", "autocast"]
