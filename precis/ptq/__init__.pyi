from .model import QuantizedModel, quantize_model
from .modes import MODES, Mode, ModeRule, mode_rules

__all__ = ["MODES", "Mode", "ModeRule", "QuantizedModel", "mode_rules", "quantize_model"]
