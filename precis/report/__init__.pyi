from .assemble import Report, Section, summarize
from .audit_markdown import audit_markdown
from .audit_terminal import print_audit
from .draw import Figures, figures
from .html import to_html
from .markdown import to_markdown
from .number_line import NumberLine, number_line
from .number_line_picture import draw_number_lines
from .publish import show, write
from .quant_markdown import quantized_markdown
from .quant_terminal import print_quantized
from .read import load
from .records import Arm, EvalRow, Role, Store, Task, TrainRow, Trial
from .rows import Row, Spread, TaskTable
from .terminal import print_report

__all__ = [
    "Arm",
    "EvalRow",
    "Figures",
    "NumberLine",
    "Report",
    "Role",
    "Row",
    "Section",
    "Spread",
    "Store",
    "Task",
    "TaskTable",
    "TrainRow",
    "Trial",
    "audit_markdown",
    "draw_number_lines",
    "figures",
    "load",
    "number_line",
    "print_audit",
    "print_quantized",
    "print_report",
    "quantized_markdown",
    "show",
    "summarize",
    "to_html",
    "to_markdown",
    "write",
]
