"""A loss scale as text: a word, and for dynamic ones its numbers. It needs no jax."""

from __future__ import annotations

import math

from precis.types import did_you_mean

# Libraries whose settings have a name.
PEERS = ("torch", "apex", "jmp", "flax", "keras")
_WORDS = ("auto", "none", "dynamic", "static:1024", *PEERS)
_SETTINGS = ("value", "growth_factor", "backoff_factor", "growth_interval", "min", "max")


def parse_loss_scale(text: str) -> tuple[str, dict[str, float]]:
    """The word and the numbers of a recipe's loss scale.

    >>> parse_loss_scale("static:1024"), parse_loss_scale("auto")
    (('static', {'value': 1024.0}), ('auto', {}))
    >>> parse_loss_scale("dynamic:value=65536,growth_interval=200")
    ('dynamic', {'value': 65536.0, 'growth_interval': 200.0})

    Raises:
        ValueError: An unknown word or setting, or a number out of its range.
    """
    word, colon, rest = text.partition(":")
    if word == "static":
        return word, {"value": _positive(rest, text)}
    if word not in _WORDS or (colon and word != "dynamic"):
        raise ValueError(f"no loss scale is called {text!r}{did_you_mean(text, _WORDS)}")
    return word, _settings(rest, text) if colon else {}


def _settings(rest: str, text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in rest.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in _SETTINGS:
            raise ValueError(f"{text!r}: a loss scale has no {key!r}{did_you_mean(key, _SETTINGS)}")
        if not equals or key in found:
            raise ValueError(f"{text!r}: {key} is written once, as {key}=<number>")
        found[key] = _positive(value, text)
    _check(found, text)
    return found


def _check(found: dict[str, float], text: str) -> None:
    """Refuses what `dynamic_loss_scale` would, as far as the text alone says it."""
    low, value, high = (found.get(key) for key in ("min", "value", "max"))
    wrong = {
        "growth_factor is at least 1": found.get("growth_factor", 1) < 1,
        "backoff_factor is at most 1": found.get("backoff_factor", 1) > 1,
        "growth_interval is a whole number": found.get("growth_interval", 1) % 1 != 0,
        "min is at most max": low is not None and high is not None and low > high,
        "value is at least min": low is not None and value is not None and value < low,
        "value is at most max": high is not None and value is not None and value > high,
    }
    for rule, is_broken in wrong.items():
        if is_broken:
            raise ValueError(f"{text!r}: {rule}")


def _positive(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError(
            f"a loss scale is written 'static:1024' or 'dynamic:value=1024', got {text!r}"
        )
    return number
