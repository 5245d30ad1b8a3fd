"""From a recipe's word to a loss scale."""

from __future__ import annotations

from precis.optim import LossScale, dynamic_loss_scale, loss_scale_like, static_loss_scale
from precis.policy import PolicyRules
from precis.train.recipe import parse_loss_scale


def resolve_loss_scale(choice: LossScale | str, policy: PolicyRules) -> LossScale | None:
    """The loss scale that `choice` means under `policy`; None for no scaling.

    Args:
        choice: `auto`, `none`, `dynamic`, `static:<value>`, a library's name as in
            `loss_scale_like`, or a loss scale as it is.
        policy: Decides what `auto` means: dynamic where gradients can underflow.

    Raises:
        ValueError: Another word, or a static value that is no positive number.
    """
    if isinstance(choice, LossScale):
        return choice
    match parse_loss_scale(choice):
        case ("none", _):
            return None
        case ("auto", _):
            return dynamic_loss_scale() if policy.needs_loss_scaling else None
        case ("dynamic", _):
            return dynamic_loss_scale()
        case ("static", float(value)):
            return static_loss_scale(value)
        case (name, _):
            return loss_scale_like(name)
