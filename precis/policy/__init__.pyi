from .cast import cast_floats, cast_to_compute, cast_to_output, cast_to_param
from .grammar import get_policy
from .kept import kept_format
from .moment import moment_format
from .policy import KEYS, Policy, Role, is_native
from .presets import PRESETS
from .rules import PolicyRules, Rule, policy_rules, read_policy

__all__ = [
    "KEYS",
    "PRESETS",
    "Policy",
    "PolicyRules",
    "Role",
    "Rule",
    "cast_floats",
    "cast_to_compute",
    "cast_to_output",
    "cast_to_param",
    "get_policy",
    "is_native",
    "kept_format",
    "moment_format",
    "policy_rules",
    "read_policy",
]
