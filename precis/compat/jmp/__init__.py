"""jmp's names and signatures: what imports jmp 0.0.4 runs on this library's parts instead.

    from precis.compat import jmp

The same policies, texts and schedules. Where jmp raises, overflows or forgets, this does not:
docs/migrate.md has the list.
"""

from precis.compat.jmp.loss_scale import (
    DynamicLossScale,
    LossScale,
    NoOpLossScale,
    StaticLossScale,
)
from precis.compat.jmp.policy import (
    Policy,
    cast_to_full,
    cast_to_half,
    get_policy,
    half_dtype,
)
from precis.compat.jmp.trees import all_finite, select_tree

__all__ = [
    "DynamicLossScale",
    "LossScale",
    "NoOpLossScale",
    "Policy",
    "StaticLossScale",
    "all_finite",
    "cast_to_full",
    "cast_to_half",
    "get_policy",
    "half_dtype",
    "select_tree",
]
