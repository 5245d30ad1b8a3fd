from .assemble import Report, Section, summarize
from .draw import Figures, figures
from .html import to_html
from .markdown import to_markdown
from .publish import show, write
from .read import load
from .records import Arm, EvalRow, Role, Store, Task, TrainRow, Trial
from .rows import Row, Spread, TaskTable
from .terminal import print_report

__all__ = [
    "Arm",
    "EvalRow",
    "Figures",
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
    "figures",
    "load",
    "print_report",
    "show",
    "summarize",
    "to_html",
    "to_markdown",
    "write",
]
