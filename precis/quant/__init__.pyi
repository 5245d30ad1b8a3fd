from .arrays import Arrays, from_arrays, to_arrays
from .calibration import AbsMax, Calibration, MinMax, Mse, Percentile, read_calibration
from .formats import quantized_format
from .kernel import (
    OUTLIER_THRESHOLD,
    Kernel,
    Stored,
    as_kernel,
    is_stored,
    open_stored,
    recast,
)
from .leaf import quantize_array
from .qtensor import QTensor
from .rules import KEPT, QuantRule, quant_rules
from .shardings import shardings_like
from .trees import dequantize, quantize, quantize_stream

__all__ = [
    "KEPT",
    "OUTLIER_THRESHOLD",
    "AbsMax",
    "Arrays",
    "Calibration",
    "Kernel",
    "MinMax",
    "Mse",
    "Percentile",
    "QTensor",
    "QuantRule",
    "Stored",
    "as_kernel",
    "dequantize",
    "from_arrays",
    "is_stored",
    "open_stored",
    "quant_rules",
    "quantize",
    "quantize_array",
    "quantize_stream",
    "quantized_format",
    "read_calibration",
    "recast",
    "shardings_like",
    "to_arrays",
]
