"""From a recipe's word to a loss scale."""

from __future__ import annotations

from typing import Any

from precis.formats import FloatFormat
from precis.optim import LossScale, dynamic_loss_scale, loss_scale_like, static_loss_scale
from precis.policy import PolicyRules
from precis.train.loss_scale_text import parse_loss_scale


def resolve_loss_scale(
    choice: LossScale | str, policy: PolicyRules, *, is_spread: bool = False
) -> LossScale | None:
    """The loss scale that `choice` means under `policy`; None for no scaling.

    Args:
        choice: `auto`, `none`, `dynamic`, `dynamic:<setting>=<number>,…`, `static:<value>`, the
            name of a library whose settings to take, or a loss scale as it is.
        policy: Decides what `auto` means: dynamic where gradients can underflow.
        is_spread: Whether gradients travel between devices, and can underflow in r as well.

    Raises:
        ValueError: Another word, or a number out of its range.
    """
    if isinstance(choice, LossScale):
        return choice
    word, settings = parse_loss_scale(choice)
    match word:
        case "dynamic":
            numbers: dict[str, Any] = settings
            return dynamic_loss_scale(**numbers)
        case "auto":
            underflows = policy.needs_loss_scaling or (is_spread and _sends_f16(policy))
            return dynamic_loss_scale() if underflows else None
        case "static":
            return static_loss_scale(settings["value"])
        case "none":
            return None
        case _:
            return loss_scale_like(word)


def _sends_f16(policy: PolicyRules) -> bool:
    fmt = policy.base.reduce
    return isinstance(fmt, FloatFormat) and fmt.exponent_bits <= 5
