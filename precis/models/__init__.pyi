from .cnn import CNN
from .decoder import Decoder, DecoderConfig
from .loader import (
    Written,
    load_node,
    load_quantized,
    open_source,
    quantize_checkpoint,
    save_quantized,
)
from .mlp import MLP
from .remat import remat

__all__ = [
    "CNN",
    "MLP",
    "Decoder",
    "DecoderConfig",
    "Written",
    "load_node",
    "load_quantized",
    "open_source",
    "quantize_checkpoint",
    "remat",
    "save_quantized",
]
