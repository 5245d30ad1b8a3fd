from .formats import FloatFormat, IntFormat, round_to
from .policy import Policy, cast_to_compute, cast_to_output, cast_to_param, get_policy
from .walk import audit, autocast

__all__ = [
    "FloatFormat",
    "IntFormat",
    "Policy",
    "audit",
    "autocast",
    "cast_to_compute",
    "cast_to_output",
    "cast_to_param",
    "get_policy",
    "round_to",
]
