from .arrays import Arrays, from_arrays, to_arrays
from .calibration import AbsMax, Calibration, MinMax, Mse, Percentile, read_calibration
from .formats import quantized_format
from .leaf import quantize_array
from .qtensor import QTensor
from .rules import KEPT, QuantRule, quant_rules
from .shardings import shardings_like
from .trees import dequantize, quantize, quantize_stream

__all__ = [
    "KEPT",
    "AbsMax",
    "Arrays",
    "Calibration",
    "MinMax",
    "Mse",
    "Percentile",
    "QTensor",
    "QuantRule",
    "dequantize",
    "from_arrays",
    "quant_rules",
    "quantize",
    "quantize_array",
    "quantize_stream",
    "quantized_format",
    "read_calibration",
    "shardings_like",
    "to_arrays",
]
