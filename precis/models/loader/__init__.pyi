from .load import load_quantized
from .plan import CHECKPOINT_KEPT
from .quantize import Written, quantize_checkpoint
from .save import save_quantized
from .source import Kind, Source, open_source

__all__ = [
    "CHECKPOINT_KEPT",
    "Kind",
    "Source",
    "Written",
    "load_quantized",
    "open_source",
    "quantize_checkpoint",
    "save_quantized",
]
