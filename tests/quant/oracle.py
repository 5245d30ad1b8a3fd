"""Quantizers written out in NumPy, one value of float64 after another where that is exact."""

import numpy as np

F32 = np.float32
SMALLEST = np.finfo(F32).smallest_normal


def groups(x, axes, block):
    """`x` with groups along its last axis, and how to undo that."""
    x = np.asarray(x)
    axes = tuple(a % x.ndim for a in axes)
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    flat = x.transpose(*rest, *axes).reshape(*(x.shape[a] for a in rest), -1)
    if block is None:
        flat = flat[..., None, :]
    else:
        size = min(block, flat.shape[-1])
        pad = -flat.shape[-1] % size
        flat = np.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, pad)])
        flat = flat.reshape(*flat.shape[:-1], -1, size)
    return flat


def symmetric_int(x, bits, axes, block=None):
    """(codes, scales) in groups: float32 products and quotients, ties to even in int64."""
    view = groups(np.asarray(x, F32), axes, block)
    largest = np.abs(view).max(-1, keepdims=True)
    scale = (largest * F32(1 / (2 ** (bits - 1) - 1))).astype(F32)
    scale = np.where(largest == 0, F32(1), np.maximum(scale, SMALLEST))
    inverse = (F32(1) / scale).astype(F32)
    return _round((view * inverse).astype(F32), bits, True), scale[..., 0]


def asymmetric_int(x, bits, axes, block=None, *, signed=True):
    """(codes, scales, zero points) in groups."""
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    view = groups(np.asarray(x, F32), axes, block)
    above = np.maximum(view, 0).max(-1, keepdims=True)
    below = np.maximum(-view, 0).max(-1, keepdims=True)
    half = (above * F32(0.5) + below * F32(0.5)).astype(F32)
    scale = np.maximum((half * F32(2 / (high - low))).astype(F32), SMALLEST)
    scale = np.where(half == 0, F32(1), scale)
    inverse = (F32(1) / scale).astype(F32)
    zero = np.clip(low + np.rint((below * inverse).astype(F32)).astype(np.int64), low, high)
    steps = np.rint((view * inverse).astype(F32)).astype(np.int64)
    return np.clip(steps + zero, low, high), scale[..., 0], zero[..., 0]


def codebook(x, values, axes, block):
    """(places, scales) in groups, the nearest value by exact distances; a tie goes down."""
    view = groups(np.asarray(x, F32), axes, block)
    largest = np.abs(view).max(-1, keepdims=True)
    scale = (largest * F32(1 / values[-1])).astype(F32)
    scale = np.where(largest == 0, F32(1), np.maximum(scale, SMALLEST))
    scaled = (view * (F32(1) / scale).astype(F32)).astype(F32).astype(np.float64)
    distance = np.abs(scaled[..., None] - np.asarray(values, np.float64))
    return distance.argmin(-1), scale[..., 0]


def _round(x, bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    return np.clip(np.rint(x.astype(np.float64)).astype(np.int64), low, low + 2**bits - 1)
