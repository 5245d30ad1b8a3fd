from .cnn import CNN
from .decoder import Decoder, DecoderConfig
from .mlp import MLP

__all__ = ["CNN", "MLP", "Decoder", "DecoderConfig"]
