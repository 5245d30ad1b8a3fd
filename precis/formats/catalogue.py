"""The formats that have a name: constants only."""

from __future__ import annotations

from precis.formats.spec import FloatFormat

FLOAT64 = FloatFormat("float64", 11, 52, 1023)
FLOAT32 = FloatFormat("float32", 8, 23, 127)
# NVIDIA's A100 whitepaper: float32's range with float16's fraction, 19 bits in all.
TF32 = FloatFormat("tf32", 8, 10, 127)
BFLOAT16 = FloatFormat("bfloat16", 8, 7, 127)
FLOAT16 = FloatFormat("float16", 5, 10, 15)

CATALOGUE = {fmt.name: fmt for fmt in (FLOAT64, FLOAT32, TF32, BFLOAT16, FLOAT16)}

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
}
