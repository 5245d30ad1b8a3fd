"""Where attention's kernels are summed, which have three axes in both of flax' libraries."""

from __future__ import annotations

from collections.abc import Container

from precis.formats import ScaledFormat


def attention_axes(
    path: str, ndim: int, fmt: ScaledFormat, paths: Container[str]
) -> tuple[int, ...] | None:
    """Axes that a kernel is summed over, if it is attention's; None is what is usual.

    Attention projects [inputs, heads, width] and back from [heads, width, outputs], with layers
    stacked in front, too. Scales along the axis before the last, which is usual, would differ
    among the products that one sum adds.

    >>> from precis.quant import quantized_format
    >>> paths = [f"attention/{name}/kernel" for name in ("query", "key", "value", "out")]
    >>> [attention_axes(path, 3, quantized_format("int8"), paths) for path in paths]
    [(-3,), (-3,), (-3,), (-3, -2)]

    Args:
        path: Where the kernel is.
        ndim: How many axes it has.
        fmt: What it is stored in; blocks run along one axis alone, which `out` has not.
        paths: Of all parameters: attention is what has a `query` and a `key` side by side.
    """
    module, _, leaf = path.rpartition("/")
    above, _, name = module.rpartition("/")
    beside = (f"{above}/{own}/kernel".lstrip("/") for own in ("query", "key"))
    if ndim < 3 or leaf != "kernel" or not all(own in paths for own in beside):
        return None
    if name in ("query", "key", "value"):
        return (-3,)
    return (-3, -2) if name == "out" and not fmt.block else None
