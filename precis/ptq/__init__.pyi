from .calibration import calibrate
from .measure import report
from .model import QuantizedModel, quantize_model
from .modes import MODES, Mode, ModeRule, mode_rules
from .rows import Report, Row
from .smoothing import smooth
from .statistics import Statistics

__all__ = [
    "MODES",
    "Mode",
    "ModeRule",
    "QuantizedModel",
    "Report",
    "Row",
    "Statistics",
    "calibrate",
    "mode_rules",
    "quantize_model",
    "report",
    "smooth",
]
