"""From a recipe's word to a loss scale."""

from __future__ import annotations

from precis.optim import LossScale, dynamic_loss_scale, static_loss_scale
from precis.policy import Policy
from precis.types import did_you_mean


def resolve_loss_scale(choice: LossScale | str, policy: Policy) -> LossScale | None:
    """The loss scale that `choice` means under `policy`; None for no scaling.

    Args:
        choice: `auto`, `none`, `dynamic`, `static:<value>`, or a loss scale as it is.
        policy: Decides what `auto` means: dynamic where gradients can underflow.

    Raises:
        ValueError: Another word, or a static value that is no positive number.
    """
    if isinstance(choice, LossScale):
        return choice
    word, _, value = choice.partition(":")
    match word:
        case "auto":
            return dynamic_loss_scale() if policy.needs_loss_scaling else None
        case "none":
            return None
        case "dynamic":
            return dynamic_loss_scale()
        case "static":
            return static_loss_scale(_positive(value, choice))
        case _:
            choices = ["auto", "none", "dynamic", "static:1024"]
            raise ValueError(f"no loss scale is called {choice!r}{did_you_mean(choice, choices)}")


def _positive(value: str, choice: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if number <= 0:
        raise ValueError(f"a static loss scale is written 'static:1024', got {choice!r}")
    return number
