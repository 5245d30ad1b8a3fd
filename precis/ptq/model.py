"""`quantize_model`: a trained model in few bits, as a function like the one that it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from precis.adapters import call_of
from precis.formats import cast_to
from precis.policy import PolicyRules
from precis.ptq.modes import ModeRule, Modes, mode_rules
from precis.ptq.weights import quantized_weights
from precis.quant import KEPT, KEPT_BY_DEFAULT, KEPT_BY_RULE, Calibration, is_stored, recast
from precis.tree import is_float
from precis.types import PyTree
from precis.walk import Audit, audit, autocast


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """A model's forward pass on quantized parameters: `fn(qparams, *args)`.

    It has the float call's signature, its shapes and its dtypes, runs under `jax.jit`, and is
    differentiated with respect to its inputs straight through all rounding.

    Attributes:
        call: The float call, `call(params, *args)`.
        policy: What each matrix op brings its inputs to.
        modes: The mode of each weight in few bits, by path.
        kept: Why each other parameter of two axes or more is still in float, by path.
        rules: What it was made by; the last that matches a path holds there.
    """

    call: Callable[..., Any]
    policy: PolicyRules
    modes: Mapping[str, str]
    kept: Mapping[str, str]
    rules: tuple[ModeRule, ...]

    def __call__(self, qparams: PyTree, *args: Any, **kwargs: Any) -> Any:
        """What the model returns for these arguments."""
        if not any(map(is_stored, jax.tree.leaves(qparams, is_leaf=is_stored))):
            raise TypeError(
                "the parameters in few bits come first, as quantize_model returned them: these "
                "hold none"
            )
        wanted = _float_shapes(self.call, (qparams, *args), kwargs)
        out = autocast(self.call, self.policy)(qparams, *args, **kwargs)
        return jax.tree.map(_in_dtype, out, wanted, is_leaf=is_stored)

    @property
    def unfit(self) -> dict[str, str]:
        """Why weights that rules would have in few bits are in float all the same, by path."""
        wanted = (KEPT_BY_RULE, KEPT_BY_DEFAULT)
        return {path: reason for path, reason in self.kept.items() if reason not in wanted}

    def audit(self, qparams: PyTree, *args: Any, **kwargs: Any) -> Audit:
        """What each matrix op runs, read off the plan; arrays may be shapes alone."""
        return audit(self.call, qparams, *args, policy=self.policy, **kwargs)


def quantize_model(
    model: Any,
    params: PyTree,
    mode: Modes,
    *,
    calibrate: Calibration | str = "absmax",
    keep: Sequence[str] = KEPT,
    input_amax: Mapping[str, Any] | None = None,
    smoothing: Mapping[str, Any] | None = None,
    outliers: int = 32,
) -> tuple[QuantizedModel, PyTree]:
    """`model` in few bits: a function with the float call's signature, and its parameters.

    | mode | weights | inputs of their matrix ops | product on CPU |
    |---|---|---|---|
    | `w8a8` | int8, a scale per channel | int8, a scale per row | int8×int8→int32 |
    | `w8a8_static` | the same | int8, one scale, from `input_amax` | the same |
    | `w8a8_outliers` | the same | int8, but the largest columns in float | the same |
    | `w8` | the same | bf16 (f16 where the weight is f16) | the same, on two digits of inputs |
    | `w4` | int4 in blocks of 64 | the same | weights dequantized for the product |
    | `nf4` | NF4 in blocks of 64 | the same | the same |
    | `w8a8_fp8` | e4m3fn, a scale per channel | e4m3fn, a scale per row | bf16 (float8 on CUDA) |
    | `f32` | as they are | f32 | f32 |

    The name of any other format is a mode for weights alone, with inputs as those of `w8`. Norms,
    biases and embeddings stay in float unless a rule names them; so does what cannot be quantized.
    `fn.kept` names each, with the reason. Products of no parameter, such as attention's, stay in
    float as well.

    >>> import jax.numpy as jnp
    >>> weights = {"kernel": jnp.float32([[1.0, -2.0], [0.5, 4.0]])}
    >>> fn, qparams = quantize_model(lambda p, x: x @ p["kernel"], weights, "w8")
    >>> fn(qparams, jnp.ones((1, 2))), fn.modes
    (Array([[1.503937, 1.984252]], dtype=float32), {'kernel': 'w8'})

    Args:
        model: A linen module: `fn` is like `model.apply`, `fn(variables, *args, mutable=…)`; or,
            if `params` are those alone, without collections, `fn(params, *args)`. An nnx module:
            `fn(params, *args)`, and if it has state, `fn(params, state, *args) -> (out, state)`
            as of `precis.bind(model)`. A `Bound`: like its `apply`. Or any function of parameters
            and inputs.
        params: Its parameters; linen's variables as a whole do as well. Of nnx, `bind(model)`'s,
            an `nnx.State`, or None for the module's own. Weights that are stored already in the
            format of their mode stay as they are.
        mode: A mode, or rules by path: `[("**", "w8a8"), ("head/**", "f32")]`, or
            `"w8a8; head/**: f32"`. The last rule that matches a path wins.
        calibrate: What groups are scaled by: see `precis.quantize`.
        keep: Patterns of paths that stay in float unless a rule names them.
        input_amax: `w8a8_static`: the largest magnitude of what each weight is multiplied with,
            by path, as `calibrate(...).amax` has it.
        smoothing: What columns of inputs are divided by, and rows of weights multiplied by before
            they are quantized, by path: `smooth(...).smoothing`.
        outliers: `w8a8_outliers`: at most so many columns of the inputs, those with the largest
            magnitudes above 6, are multiplied in float. Dots alone have such columns: a
            convolution or a ragged dot in this mode is an error when it is run.

    Raises:
        ValueError: An unknown mode; a rule that matches nothing, or nothing to quantize, with what
            there is; a static mode without `input_amax`; numbers for a path that there is not, or
            of another shape; a weight that is stored in few bits already, but those of its mode.
        TypeError: A model of another kind.
    """
    call, tree = call_of(model, params)
    rules = mode_rules(mode)
    if outliers < 0:
        raise ValueError(f"outliers is how many columns are multiplied in float, got {outliers}")
    made = quantized_weights(
        tree,
        rules,
        calibrate=calibrate,
        keep=keep,
        input_amax=input_amax or {},
        smoothing=smoothing or {},
        outliers=outliers,
    )
    return QuantizedModel(call, made.policy, made.modes, made.kept, rules), made.qparams


def _float_shapes(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Shapes and dtypes of what `call` returns on floats in place of weights in few bits."""
    leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=is_stored)
    is_array = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]

    def on_arrays(*arrays: Any) -> Any:
        given = iter(arrays)
        pairs = zip(leaves, is_array, strict=True)
        own_args, own_kwargs = jax.tree.unflatten(
            tree, [next(given) if array else leaf for leaf, array in pairs]
        )
        return call(*own_args, **own_kwargs)

    shapes = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_stored(leaf) else leaf
        for leaf, array in zip(leaves, is_array, strict=True)
        if array
    ]
    return jax.eval_shape(on_arrays, *shapes)


def _in_dtype(x: Any, wanted: jax.ShapeDtypeStruct) -> Any:
    if is_stored(x):  # a model that hands out its parameters, as linen's mutable=True does
        return recast(x, wanted.dtype)
    return cast_to(x, wanted.dtype.name) if is_float(x) and x.dtype != wanted.dtype else x
