from .evaluate import make_evaluate
from .gradient import value_and_grad
from .state import TrainState
from .step import Step, make_step

__all__ = ["Step", "TrainState", "make_evaluate", "make_step", "value_and_grad"]
