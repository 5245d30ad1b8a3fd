"""Quantized arms: of which arm's weights they are made, and how. Needs no jax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from precis.ptq import mode_text
from precis.quant import read_calibration
from precis.sweep.spec import ArmSpec
from precis.types import did_you_mean

# What is said of training, and what of quantizing.
_OF_TRAINING = ("policy", "apex", "recipe", "steps", "perturb_ulp")
_OF_QUANTIZING = ("calibrate", "smooth")
_DEFAULTS = {field.name: getattr(ArmSpec(name=""), field.name) for field in fields(ArmSpec)}


def with_sources(arms: Mapping[str, ArmSpec]) -> dict[str, ArmSpec]:
    """`arms`, quantized ones with canonical modes and with all that their source says of training.

    Args:
        arms: By name, grids expanded.

    Raises:
        ValueError: A bad mode or calibration, no source, one that is quantized itself, or a key
            that the arm has no use for.
    """
    return {name: _made(arm, arms) if _is_made(arm) else arm for name, arm in arms.items()}


def _is_made(arm: ArmSpec) -> bool:
    """Whether the arm is quantized; or half of it is said, which is an error."""
    if arm.quantize or arm.of:
        return True
    if given := _given(arm, _OF_QUANTIZING):
        raise ValueError(
            f"arm {arm.name!r}: {given} is for arms that are quantized, with quantize and of"
        )
    return False


def _made(arm: ArmSpec, arms: Mapping[str, ArmSpec]) -> ArmSpec:
    where = f"arm {arm.name!r}"
    trained = [name for name, other in arms.items() if not other.quantize]
    if not arm.quantize:
        raise ValueError(f"{where} is of {arm.of!r} and wants a mode: quantize = 'w8a8', or others")
    if not arm.of:
        raise ValueError(f"{where} is quantized and wants the arm that trains it: of = a name")
    if given := _given(arm, _OF_TRAINING):
        raise ValueError(f"{where} is quantized: {given} is for the arm that trains it, {arm.of!r}")
    source = arms.get(arm.of)
    if source is None:
        near = did_you_mean(arm.of, trained)
        raise ValueError(f"{where}: of = {arm.of!r}: no arm has that name{near}")
    if source.quantize:
        raise ValueError(
            f"{where}: of = {arm.of!r}, which is quantized itself; that one is of {source.of!r}"
        )
    try:
        mode = mode_text(arm.quantize)
        read_calibration(arm.calibrate)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if arm.smooth is not None and not 0 <= arm.smooth <= 1:
        raise ValueError(f"{where}: smooth is from 0 to 1, got {arm.smooth}")
    return replace(
        arm,
        quantize=mode,
        policy=source.policy,
        recipe=source.recipe,
        steps=source.steps,
        perturb_ulp=source.perturb_ulp,
    )


def _given(arm: ArmSpec, keys: tuple[str, ...]) -> str:
    """The first of `keys` that the arm sets; "" if none."""
    return next((key for key in keys if getattr(arm, key) != _DEFAULTS[key]), "")
