from .calibration import calibrate
from .measure import report
from .model import QuantizedModel, quantize_model
from .modes import MODES, Mode, ModeRule, Modes, mode_rules, mode_text
from .rows import Report, Row
from .smoothing import smooth
from .statistics import Statistics

__all__ = [
    "MODES",
    "Mode",
    "ModeRule",
    "Modes",
    "QuantizedModel",
    "Report",
    "Row",
    "Statistics",
    "calibrate",
    "mode_rules",
    "mode_text",
    "quantize_model",
    "report",
    "smooth",
]
