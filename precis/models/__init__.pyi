from .cnn import CNN
from .decoder import Decoder, DecoderConfig
from .mlp import MLP
from .remat import remat

__all__ = ["CNN", "MLP", "Decoder", "DecoderConfig", "remat"]
