from .adapters import Bound, bind, unbind
from .formats import FloatFormat, IntFormat, round_to
from .models import load_quantized, quantize_checkpoint, remat, save_quantized
from .policy import (
    Policy,
    PolicyRules,
    cast_to_compute,
    cast_to_output,
    cast_to_param,
    get_policy,
    policy_rules,
    read_policy,
)
from .ptq import quantize_model
from .quant import QTensor, dequantize, quantize
from .train import Recipe, make_step, value_and_grad
from .walk import audit, autocast

__all__ = [
    "Bound",
    "FloatFormat",
    "IntFormat",
    "Policy",
    "PolicyRules",
    "QTensor",
    "Recipe",
    "audit",
    "autocast",
    "bind",
    "cast_to_compute",
    "cast_to_output",
    "cast_to_param",
    "dequantize",
    "get_policy",
    "load_quantized",
    "make_step",
    "policy_rules",
    "quantize",
    "quantize_checkpoint",
    "quantize_model",
    "read_policy",
    "remat",
    "round_to",
    "save_quantized",
    "unbind",
    "value_and_grad",
]
