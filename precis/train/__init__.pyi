from .apex import apex_level
from .evaluate import make_evaluate
from .explain import audit_task
from .fit import fit
from .gradient import value_and_grad
from .microbatch import in_microbatches
from .optimizer import make_optimizer
from .recipe import Recipe
from .state import TrainState
from .step import Step, make_step
from .task import Task, load_task
from .trainable import Split, Trainable, trainable

__all__ = [
    "Recipe",
    "Split",
    "Step",
    "Task",
    "TrainState",
    "Trainable",
    "apex_level",
    "audit_task",
    "fit",
    "in_microbatches",
    "load_task",
    "make_evaluate",
    "make_optimizer",
    "make_step",
    "trainable",
    "value_and_grad",
]
