"""`value_and_grad` under a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from precis.formats import FLOAT32, wide_dtype
from precis.optim import AxisNames, varying
from precis.policy import Policy, PolicyRules, read_policy
from precis.quant import Kernel, QTensor, is_stored
from precis.train.replicas import over_replicas
from precis.train.trainable import Trainable
from precis.tree import map_params
from precis.types import PyTree
from precis.walk import autocast
from precis.walk.equations import varying_axes


def value_and_grad(
    loss: Callable[..., Any],
    policy: PolicyRules | Policy | str,
    *,
    has_aux: bool = False,
    state_argnums: int | tuple[int, ...] = (),
    key: Array | None = None,
    trainable: Trainable | None = None,
    axis_name: AxisNames | None = None,
) -> Callable[..., Any]:
    """`jax.value_and_grad(loss)` with respect to its first argument, computed under `policy`.

    Gradients come in the policy's weight_grad format. Where that is wider than the parameters'
    storage, the parameters are widened before the gradient is taken, which costs a float32 copy
    of them while the step runs; otherwise each gradient has the dtype of its parameter.

    That price in bytes per parameter, on 24 scanned layers of 512 by `memory_analysis()` on CPU:
    `p=bf16,w=f32` takes 2 of parameters, 4 of gradients and 4.6 of temporaries; `p=f32` takes
    4, 4 and 0.6. So a wide gradient of narrow parameters saves no memory by itself, only storage
    between steps. (`p=bf16,w=bf16`: 2, 2 and 4.6; XLA on CPU sums bfloat16 gradients in float32.)

    A weight in few bits, a `QTensor` among the parameters, is differentiated by as if it were the
    float32 array that it stands for, straight through its rounding; its gradient is an array. The
    forward product and that of the input's gradient multiply its codes, and no float copy of it is
    made; whoever wants it frozen leaves it out of `trainable`.

    Args:
        loss: `loss(params, *args, **kwargs)` gives a float scalar, or `(scalar, aux)`.
        policy: A policy, rules by path, or the text of either.
        has_aux: Whether `loss` returns a pair.
        state_argnums: Arguments that hold running statistics, as in `autocast`.
        key: A random key for stochastic roles, as in `autocast`: another one in each step. It is
            not the loss's own `key`, which is a keyword of the result.
        trainable: Which parameters to differentiate by, all by default. The gradients are then a
            dict by path, and the others cost none.
        axis_name: Axes of `jax.shard_map` over which parameters are the same and batches are not:
            gradients are averaged over them once, in the policy's r and in no other dtype; the
            value, and the floats of `aux`, in float32.

    Returns:
        `fn(params, *args, scale=None, **kwargs) -> (value, grads)`, or `((value, aux), grads)`.
        `value` is [] float32 or wider. With `scale` ([] float32), the gradients are those of
        `value * scale`, multiplied in float32; the value is returned unscaled.
    """
    resolved = read_policy(policy)
    cast = autocast(loss, resolved, state_argnums=state_argnums, key=key)

    def fn(params: PyTree, *args: Any, scale: Array | None = None, **kwargs: Any) -> Any:
        def objective(trained: PyTree) -> tuple[Array, Any]:
            held = _held(given, trained)
            whole = held if trainable is None else trainable.merge(params, held)
            result = cast(whole, *args, **kwargs)
            value, aux = result if has_aux else (result, None)
            value = value.astype(wide_dtype(value.dtype))
            return (value if scale is None else value * scale), (value, aux)

        given = params if trainable is None else trainable.split(params).trained
        wide = _widened(given, resolved)
        grads, (value, aux) = jax.grad(objective, has_aux=True)(wide)
        return ((value, aux) if has_aux else value), grads

    return over_replicas(fn, axis_name, resolved.base.reduce)


def _widened(params: PyTree, policies: PolicyRules) -> PyTree:
    """The parameters in a dtype that holds the gradients' format as well as their own.

    In place of weights in few bits, there are zeros to differentiate by.

    Raises:
        TypeError: A weight in few bits that was made for inference only.
    """

    def widen(path: str, leaf: Any) -> Any:
        wanted = policies.at(path).weight_grad
        if wanted.dtype is None or wanted.bits < FLOAT32.bits:
            return leaf
        return leaf.astype(wide_dtype(leaf.dtype, wanted.dtype))

    def zeros(leaf: Any) -> Any:
        if isinstance(leaf, Kernel):
            raise TypeError(
                "a Kernel, made for the inputs of a trained model, is not trained: freeze it by "
                "trainable=, or train its weight, a QTensor"
            )
        return _zeros(leaf) if isinstance(leaf, QTensor) else leaf

    return jax.tree.map(zeros, map_params(widen, params), is_leaf=is_stored)


def _zeros(weight: QTensor) -> Array:
    """Zeros that stand for `weight`, and vary between replicas if it does."""
    names = tuple(varying_axes(jax.typeof(weight.values)))
    zeros = jnp.zeros(weight.shape, jnp.float32)
    return varying(zeros, names) if names else zeros


def _held(params: PyTree, floats: PyTree) -> PyTree:
    """`floats`, with the weights in few bits of `params` around the zeros that stand for them."""

    def hold(leaf: Any, x: Any) -> Any:
        return Kernel(leaf, tangent=x) if isinstance(leaf, QTensor) else x

    return jax.tree.map(hold, params, floats, is_leaf=is_stored)
