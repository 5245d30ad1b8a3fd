from .cast import cast_to, wide_dtype
from .catalogue import BFLOAT16, CATALOGUE, FLOAT16, FLOAT32, FLOAT64, TF32
from .parse import Format, parse, parse_float
from .round import round_to
from .spec import FloatFormat, IntFormat

__all__ = [
    "BFLOAT16",
    "CATALOGUE",
    "FLOAT16",
    "FLOAT32",
    "FLOAT64",
    "TF32",
    "FloatFormat",
    "Format",
    "IntFormat",
    "cast_to",
    "parse",
    "parse_float",
    "round_to",
    "wide_dtype",
]
