from .draft import refuse_existing
from .load import load_node, load_quantized
from .plan import CHECKPOINT_KEPT
from .quantize import Written, quantize_checkpoint
from .save import save_quantized
from .source import Kind, Source, open_source

__all__ = [
    "CHECKPOINT_KEPT",
    "Kind",
    "Source",
    "Written",
    "load_node",
    "load_quantized",
    "open_source",
    "quantize_checkpoint",
    "refuse_existing",
    "save_quantized",
]
