from .arrays import (
    Arrays,
    from_arrays,
    in_structure,
    manifest_of,
    nodes_of,
    on_device,
    to_arrays,
)
from .attention import attention_axes
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
from .pieces import quantize_pieces
from .qtensor import QTensor
from .rules import (
    KEPT,
    KEPT_BY_DEFAULT,
    KEPT_BY_RULE,
    QuantRule,
    Rules,
    check_rules,
    quant_rules,
    rule_for,
)
from .shardings import shardings_like
from .trees import dequantize, quantize, quantize_one, quantize_stream

__all__ = [
    "KEPT",
    "KEPT_BY_DEFAULT",
    "KEPT_BY_RULE",
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
    "Rules",
    "Stored",
    "as_kernel",
    "attention_axes",
    "check_rules",
    "dequantize",
    "from_arrays",
    "in_structure",
    "is_stored",
    "manifest_of",
    "nodes_of",
    "on_device",
    "open_stored",
    "quant_rules",
    "quantize",
    "quantize_array",
    "quantize_one",
    "quantize_pieces",
    "quantize_stream",
    "quantized_format",
    "read_calibration",
    "recast",
    "rule_for",
    "shardings_like",
    "to_arrays",
]
