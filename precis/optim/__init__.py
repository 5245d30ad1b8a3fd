"""optax transformations for training in few bits: loss scaling, few-bit moments and wires."""

from precis.optim.accumulate import AccumulatedState, accumulate
from precis.optim.applied import Applied, Apply, Applying, InPlace, add_updates, apply_update
from precis.optim.blockwise import BlockwiseState
from precis.optim.clip import clipped_first
from precis.optim.coded import stored_params
from precis.optim.kept import Kept, reseeded
from precis.optim.master import MasterState, master_weights
from precis.optim.moment import Moment
from precis.optim.moments import quantized_state, stored_moments
from precis.optim.norm import Norm, clip_by_norm, gradient_norm
from precis.optim.replicas import AxisNames, is_same, varying
from precis.optim.scale import (
    LossScale,
    adjust,
    dynamic_loss_scale,
    loss_scale_like,
    scale_loss,
    static_loss_scale,
)
from precis.optim.scaled import loss_scaled
from precis.optim.scaled_state import LossScaledState, keep_if_skipped, scale_of, state_of
from precis.optim.wire import reduce_gradients

__all__ = [
    "AccumulatedState",
    "Applied",
    "Apply",
    "Applying",
    "AxisNames",
    "BlockwiseState",
    "InPlace",
    "Kept",
    "LossScale",
    "LossScaledState",
    "MasterState",
    "Moment",
    "Norm",
    "accumulate",
    "add_updates",
    "adjust",
    "apply_update",
    "clip_by_norm",
    "clipped_first",
    "dynamic_loss_scale",
    "gradient_norm",
    "is_same",
    "keep_if_skipped",
    "loss_scale_like",
    "loss_scaled",
    "master_weights",
    "quantized_state",
    "reduce_gradients",
    "reseeded",
    "scale_loss",
    "scale_of",
    "state_of",
    "static_loss_scale",
    "stored_moments",
    "stored_params",
    "varying",
]
