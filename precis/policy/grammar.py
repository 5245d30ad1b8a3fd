"""Between a policy and its text.

    rules   = policy { ";" [ pattern ":" ( format | pair { "," pair } ) ] }
    pattern = a path, in which "*" and "?" stop at "/" and "**" does not; without ":" and ";"
    policy  = preset | format | pair { "," pair }
    pair    = key "=" format
    key     = "p" | "c" | "k" | "x" | "o" | "a" | "g" | "gx" | "gw" | "w" | "s" | "r" | "m" | "v"
            | "params" | "compute" | "output" | … (the roles' long names)

The text means in jmp what it means here, as far as jmp has it. `format` is `formats.parse`'s; c, k,
g, gx and gw, operands of matrix ops, may be scaled or rounded by chance (`int8(stochastic)`), and
an integer there has a scale per channel; p may be scaled, too, and is then stored as codes. What
follows `;` are rules by path, `read_policy`'s to read; a format alone sets c there, and nothing is
read as a preset.
"""

from __future__ import annotations

import functools
import re
from types import SimpleNamespace

from precis.formats import (
    FLOAT32,
    Codebook,
    FloatFormat,
    Format,
    Rounded,
    ScaledFormat,
    is_stochastic,
    parse,
    parse_float,
)
from precis.policy.kept import kept_format
from precis.policy.moment import moment_format
from precis.policy.policy import KEYS, Policy, default_of, plain
from precis.policy.presets import PRESETS
from precis.types import did_you_mean

_OPERANDS = ("c", "k", "g", "gx", "gw")
_KEPT = ("m", "v", "r")
_COMMA = re.compile(r",(?![^()]*\))")  # but none inside parentheses
_LONG = {"params": "p"} | {name: key for key, name in KEYS.items()}


def get_policy(text: Policy | str) -> Policy:
    """The policy that `text` describes; a policy is returned as it is.

    `text` is a preset (`mixed_bf16`), a list of roles (`p=f32,c=bf16,o=f32`), or one format,
    which then sets p, c and o; a scaled or integer one sets c, with p=f32 and o=f32. Roles that
    are left out take their defaults.
    `get_policy(str(policy)) == policy`.

    >>> str(get_policy("mixed_bf16"))
    'p=f32,c=bf16,o=f32'
    >>> get_policy("c=bf16") == get_policy("params=float32,compute=bfloat16,output=bfloat16")
    True

    Raises:
        ValueError: An unknown preset, key or format, a key given twice, or a set of formats
            that cannot work together.
        TypeError: `text` is neither text nor a policy.
    """
    if isinstance(text, Policy):
        return text
    if isinstance(text, str) and ";" in text:
        raise ValueError(f"{text!r} has rules by path, and one policy is wanted; see read_policy")
    if not isinstance(text, str):
        raise TypeError(f"a policy or its text is wanted, got {text} ({type(text).__name__})")
    return _read(text)


@functools.lru_cache(maxsize=256)
def _read(text: str) -> Policy:
    return resolve(_given(text))


def resolve(given: dict[str, Format]) -> Policy:
    """The policy with the formats that are `given` by letter, the other roles at their defaults.

    Raises:
        ValueError: Formats that cannot work together.
    """
    policy = _resolve(given)
    _check(policy)
    return policy


def _given(text: str) -> dict[str, Format]:
    """The roles that `text` names, after presets and bare formats are written out."""
    text = PRESETS.get(text.strip().lower(), text)
    if not re.match(r"\s*\w+\s*=", text):
        fmt = read_bare(text)
        whole = fmt if isinstance(fmt, FloatFormat) else FLOAT32
        return {"p": whole, "c": fmt, "o": whole}
    return read_roles(text)


def read_roles(text: str) -> dict[str, Format]:
    """The format of each role that a list such as `c=f32,k=f32` names, by the role's letter.

    Raises:
        ValueError: A part that is no pair, an unknown role or format, or a role given twice.
    """
    given: dict[str, Format] = {}
    for part in _COMMA.split(text):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"{text!r}: {part.strip()!r} is no role=format pair")
        short = _LONG.get(key, key)
        if short not in KEYS:
            choices = [*KEYS, *_LONG]
            raise ValueError(f"{text!r}: no role is called {key!r}{did_you_mean(key, choices)}")
        if short in given:
            raise ValueError(f"{text!r}: role {short!r} is given twice")
        given[short] = _format_for(short, value)
    return given


def _format_for(key: str, text: str) -> Format:
    """The format that `text` names, if the role can have it.

    Raises:
        ValueError: It cannot.
    """
    if key in _OPERANDS:
        fmt = parse(text)
    else:
        try:
            fmt = _without_chance(key, parse(text))
        except ValueError as error:
            raise ValueError(f"{key}={text}: {error}") from None
        if key in _KEPT:
            return kept_format(key, fmt) if key == "r" else moment_format(key, fmt)
    grid = fmt.grid if isinstance(fmt, Rounded | ScaledFormat) else fmt
    if isinstance(grid, FloatFormat) and not grid.is_signed:
        raise ValueError(f"{key}={text}: {grid} has neither sign nor zero; it serves for scales")
    if isinstance(grid, Codebook) and not isinstance(fmt, ScaledFormat):
        raise ValueError(f"{key}={text}: a codebook wants a scale, as in {grid}@block64")
    if grid.min >= 0:
        raise ValueError(f"{key}={text}: {grid} has no negative values, and would make them zero")
    return fmt


def _without_chance(key: str, fmt: Format) -> Format:
    """`fmt` as a role can have it that is no operand of matrix ops."""
    if key == "p" and is_stochastic(fmt):
        raise ValueError(
            "how parameters come into storage is the recipe's to say: "
            f"p={str(fmt).replace('(stochastic)', '')} with master='stochastic'"
        )
    if is_stochastic(fmt):
        raise ValueError(
            "what is stored or sent, or flows between ops, is rounded to nearest; stochastic can "
            f"be the operands of matrix ops: {', '.join(_OPERANDS)}"
        )
    if key == "p" and not isinstance(fmt, FloatFormat | Rounded):
        return fmt
    return fmt if key in _KEPT else parse_float(fmt)


def read_bare(text: str) -> Format:
    """The operand format that a policy's text consists of, if it names no role."""
    try:
        return _format_for("c", text)
    except ValueError as error:
        if text.strip().lower() == "half":
            raise
        hint = did_you_mean(text, [*PRESETS, "f32", "bf16", "f16"])
        raise ValueError(f"no policy is called {text!r}{hint} ({error})") from None


def _resolve(given: dict[str, Format]) -> Policy:
    known = SimpleNamespace(**{KEYS[key]: fmt for key, fmt in given.items()})
    # A role derives from roles further up this list only.
    for name in ("param", "compute", "activation", *KEYS.values()):
        if not hasattr(known, name):
            setattr(known, name, default_of(name, known)[0])
    return Policy(**vars(known))


def _check(policy: Policy) -> None:
    roles = {key: getattr(policy, name) for key, name in KEYS.items()}
    wide = [key for key, fmt in roles.items() if _is_wide(fmt)]
    for key in ("p", *_OPERANDS):
        if wide and not isinstance(plain(roles[key]), FloatFormat):
            raise ValueError(
                f"{key}={roles[key]}: scales and scaled values are float32, and {wide[0]}="
                f"{roles[wide[0]]} is wider; choose f32 there"
            )


def _is_wide(fmt: Format) -> bool:
    """Whether `fmt` has values that float32 lacks."""
    return isinstance(fmt, FloatFormat) and not fmt.fits_in(FLOAT32)
