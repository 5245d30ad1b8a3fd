from .apex import apex_level
from .evaluate import make_evaluate
from .explain import audit_task
from .fit import fit
from .gradient import value_and_grad
from .optimizer import make_optimizer
from .recipe import Recipe
from .state import TrainState
from .step import Step, make_step
from .task import Task, load_task

__all__ = [
    "Recipe",
    "Step",
    "Task",
    "TrainState",
    "apex_level",
    "audit_task",
    "fit",
    "load_task",
    "make_evaluate",
    "make_optimizer",
    "make_step",
    "value_and_grad",
]
