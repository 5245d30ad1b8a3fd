"""Numbers of formats as text: powers of two as such, decimals exact where they are short."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

from precis.report.words import MINUS, NOTHING

Number = Fraction | float


def power(x: Number) -> str | None:
    """`2^-24` for a power of two, None for all else.

    >>> power(2.0**-24), power(1), power(3.0)
    ('2^-24', '2^0', None)
    """
    if isinstance(x, float) and not math.isfinite(x):
        return None
    numerator, denominator = Fraction(x).as_integer_ratio()
    if numerator <= 0 or numerator & (numerator - 1) or denominator & (denominator - 1):
        return None
    return f"2^{numerator.bit_length() - denominator.bit_length()}"


def decimal(x: Number, digits: int) -> str:
    """`x` in decimal, rounded to so many significant digits, with a true minus.

    >>> decimal(65504.0, 5), decimal(2.0**-24, 3), decimal(-1e300, 2), decimal(-0.0, 3)
    ('65504', '5.96e-8', '−1e300', '−0')
    """
    if isinstance(x, float) and not math.isfinite(x):
        return "NaN" if math.isnan(x) else "inf" if x > 0 else f"{MINUS}inf"
    negative = x < 0 or (isinstance(x, float) and math.copysign(1.0, x) < 0)
    rounded = _rounded(abs(Fraction(x)), digits)
    exponent = 0 if rounded.is_zero() else rounded.adjusted()
    # Where plain figures would want more zeros than digits.
    shift = 0 if -4 < exponent < max(digits, 6) else exponent
    text = f"{rounded.scaleb(-shift):f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return (MINUS if negative else "") + text + (f"e{shift}" if shift else "")


def is_short(x: Number, digits: int) -> bool:
    """Whether so many significant digits give `x` exactly.

    >>> is_short(0.125, 3), is_short(2.0**-24, 3)
    (True, False)
    """
    return Fraction(_rounded(abs(Fraction(x)), digits)) == abs(Fraction(x))


def figure(x: Number | None, digits: int = 3) -> str:
    """`x` for a cell: a power of two below 1/8 as such, else a few digits; a dash for None.

    >>> figure(2.0**-24), figure(0.125), figure(65504.0), figure(3.38953138925e38), figure(None)
    ('2^-24', '0.125', '65504', '3.39e38', '–')
    """
    if x is None:
        return NOTHING
    text = power(x)
    if text is not None and not 1 / 8 <= x < 2**17:
        return text
    if isinstance(x, float) and not math.isfinite(x):
        return decimal(x, digits)
    return decimal(x, 5 if is_short(x, 5) else digits)


def both(x: Number, digits: int = 3) -> str:
    """`x` with all that is known of it: as a power of two, and in decimal, equal or nearly.

    >>> both(2.0**-24), both(0.25), both(65504.0), both(0.1)
    ('2^-24 ≈ 5.96e-8', '2^-2 = 0.25', '65504', '≈ 0.1')
    """
    if isinstance(x, float) and not math.isfinite(x):
        return decimal(x, digits)
    exact = is_short(x, 2 * digits)
    text = decimal(x, 2 * digits if exact else digits)
    as_power = power(x)
    if as_power is None or x == 1:
        return text if exact else f"≈ {text}"
    return f"{as_power} {'=' if exact else '≈'} {text}"


def _rounded(x: Fraction, digits: int) -> Decimal:
    with localcontext(prec=digits, Emax=10**6, Emin=-(10**6)):
        return Decimal(x.numerator) / Decimal(x.denominator)
