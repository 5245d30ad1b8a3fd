"""Where attention's kernels are summed, which have three axes in both of flax' libraries."""

from __future__ import annotations

from collections.abc import Container

from precis.formats import ScaledFormat


def attention_axes(
    path: str, shape: tuple[int, ...], fmt: ScaledFormat, paths: Container[str]
) -> tuple[int, ...] | None:
    """Axes that a kernel is summed over, if it is attention's; None is what is usual.

    Attention projects [inputs, heads, width] and back from [heads, width, outputs], with layers
    stacked in front, too. Scales along the axis before the last, which is usual, would differ
    among the products that one sum adds.

    >>> from precis.quant import quantized_format
    >>> paths = [f"attention/{name}/kernel" for name in ("query", "key", "value", "out")]
    >>> [attention_axes(path, (64, 4, 16), quantized_format("int8"), paths) for path in paths]
    [(-3,), (-3,), (-3,), (-3, -2)]

    A projection by a convolution, over windows of one, has nothing to sum there:

    >>> attention_axes("attention/query/kernel", (1, 1, 64, 16), quantized_format("int8"), paths)

    Args:
        path: Where the kernel is.
        shape: Its shape.
        fmt: What it is stored in; blocks run along one axis alone, which `out` has not.
        paths: Of all parameters: attention is what has a `query` and a `key` side by side.
    """
    module, _, leaf = path.rpartition("/")
    above, _, name = module.rpartition("/")
    beside = (f"{above}/{own}/kernel".lstrip("/") for own in ("query", "key"))
    is_attention = leaf == "kernel" and all(own in paths for own in beside)
    if len(shape) < 3 or shape[-3] == 1 or not is_attention:
        return None
    if name in ("query", "key", "value"):
        return (-3,)
    return (-3, -2) if name == "out" and not fmt.block else None
