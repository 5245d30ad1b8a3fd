from .cast import cast_floats, cast_to_compute, cast_to_output, cast_to_param
from .grammar import get_policy
from .policy import KEYS, Policy, Role
from .presets import PRESETS

__all__ = [
    "KEYS",
    "PRESETS",
    "Policy",
    "Role",
    "cast_floats",
    "cast_to_compute",
    "cast_to_output",
    "cast_to_param",
    "get_policy",
]
