"""The formats that have a name: constants only."""

from __future__ import annotations

from precis.formats.codebooks import dynamic_map, normal_float
from precis.formats.float_format import FloatFormat
from precis.formats.spec import Codebook, IntFormat

FLOAT64 = FloatFormat("float64", 11, 52, 1023)
FLOAT32 = FloatFormat("float32", 8, 23, 127)
# NVIDIA's A100 whitepaper: float32's range with float16's fraction, 19 bits in all.
TF32 = FloatFormat("tf32", 8, 10, 127)
BFLOAT16 = FloatFormat("bfloat16", 8, 7, 127)
FLOAT16 = FloatFormat("float16", 5, 10, 15)

# OCP OFP8 specification 1.0; the fnuz ones are Graphcore's and AMD's (arXiv:2206.02915), with a
# bias one higher than IEEE's; b11 is an early TPU's.
E4M3FN = FloatFormat("float8_e4m3fn", 4, 3, 7, "fn")
E5M2 = FloatFormat("float8_e5m2", 5, 2, 15)
E4M3 = FloatFormat("float8_e4m3", 4, 3, 7)
E3M4 = FloatFormat("float8_e3m4", 3, 4, 3)
E4M3FNUZ = FloatFormat("float8_e4m3fnuz", 4, 3, 8, "fnuz")
E5M2FNUZ = FloatFormat("float8_e5m2fnuz", 5, 2, 16, "fnuz")
E4M3B11FNUZ = FloatFormat("float8_e4m3b11fnuz", 4, 3, 11, "fnuz")

# OCP Microscaling Formats specification 1.0, section 5.
E8M0 = FloatFormat("float8_e8m0fnu", 8, 0, 127, "fnu")
E2M3 = FloatFormat("float6_e2m3fn", 2, 3, 1, "finite")
E3M2 = FloatFormat("float6_e3m2fn", 3, 2, 3, "finite")
E2M1 = FloatFormat("float4_e2m1fn", 2, 1, 1, "finite")

INT8 = IntFormat(8)
NF4 = Codebook("nf4", normal_float(4))
DYNAMIC8 = Codebook("dynamic8", dynamic_map(8, signed=True))
UDYNAMIC8 = Codebook("udynamic8", dynamic_map(8, signed=False))

_FLOATS = (
    *(FLOAT64, FLOAT32, TF32, BFLOAT16, FLOAT16),
    *(E4M3FN, E5M2, E4M3, E3M4, E4M3FNUZ, E5M2FNUZ, E4M3B11FNUZ, E8M0),
    *(E2M3, E3M2, E2M1),
)
_INTS = (
    *(IntFormat(bits) for bits in (16, 8, 4, 2)),
    *(IntFormat(bits, signed=False) for bits in (8, 4, 2)),
)
_CODEBOOKS = (NF4, DYNAMIC8, UDYNAMIC8)

CATALOGUE = {fmt.name: fmt for fmt in (*_FLOATS, *_INTS, *_CODEBOOKS)}

ALIASES = {
    "f64": "float64",
    "fp64": "float64",
    "f32": "float32",
    "fp32": "float32",
    "full": "float32",
    "bf16": "bfloat16",
    "f16": "float16",
    "fp16": "float16",
    "tensorfloat32": "tf32",
    "e8m0": "float8_e8m0fnu",
} | {
    # `e4m3fn` for `float8_e4m3fn`, `e2m1` as well as `e2m1fn` for `float4_e2m1fn`.
    short: fmt.name
    for fmt in _FLOATS
    if "_" in fmt.name
    for short in (fmt.name.partition("_")[2], str(fmt))
}
