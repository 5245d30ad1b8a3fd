"""What a training step hands to the next."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

from precis.types import PyTree


class TrainState(NamedTuple):
    """Everything that a step changes; a pytree, checkpointed as it is.

    Attributes:
        step: [] int32, steps taken, skipped ones included.
        params: Parameters, stored in the policy's param format.
        state: What the model carries beside parameters, such as BatchNorm statistics.
        opt_state: The optimizer's state, loss scale included.
    """

    step: Array
    params: PyTree
    state: PyTree
    opt_state: PyTree
