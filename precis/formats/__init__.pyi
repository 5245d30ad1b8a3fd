from .blocks import Blocks, from_blocks, quantize_dequantize, to_blocks
from .cast import cast_to, wide_dtype
from .catalogue import BFLOAT16, CATALOGUE, E4M3FN, E5M2, FLOAT16, FLOAT32, FLOAT64, TF32
from .codes import as_integers, decode, encode
from .compact import Compact, compact_zeros, compress, decompress
from .compact_format import compact_format
from .exact import nearest_code, neighbors, value_of
from .facts import Facts, facts
from .float_format import FloatFormat
from .groups import checked_axes, grouped, ungrouped, without_groups
from .pack import Packed, pack, unpack
from .parse import Format, parse, parse_float, parse_grid
from .reading import Reading, read_number
from .round import round_to
from .scaled import BLOCK_FORMATS, Rounded, ScaledFormat, is_stochastic
from .scales import amax, exact_amax, scale_exponents, times_inverse
from .spec import Codebook, Grid, IntFormat

__all__ = [
    "BFLOAT16",
    "BLOCK_FORMATS",
    "CATALOGUE",
    "E4M3FN",
    "E5M2",
    "FLOAT16",
    "FLOAT32",
    "FLOAT64",
    "TF32",
    "Blocks",
    "Codebook",
    "Compact",
    "Facts",
    "FloatFormat",
    "Format",
    "Grid",
    "IntFormat",
    "Packed",
    "Reading",
    "Rounded",
    "ScaledFormat",
    "amax",
    "as_integers",
    "cast_to",
    "checked_axes",
    "compact_format",
    "compact_zeros",
    "compress",
    "decode",
    "decompress",
    "encode",
    "exact_amax",
    "facts",
    "from_blocks",
    "grouped",
    "is_stochastic",
    "nearest_code",
    "neighbors",
    "pack",
    "parse",
    "parse_float",
    "parse_grid",
    "quantize_dequantize",
    "read_number",
    "round_to",
    "scale_exponents",
    "times_inverse",
    "to_blocks",
    "ungrouped",
    "unpack",
    "value_of",
    "wide_dtype",
    "without_groups",
]
