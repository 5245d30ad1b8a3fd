"""`text`: predict the next byte of text files, by default the Python standard library's sources."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np
import optax
from flax import nnx
from jax import Array

from precis.adapters import Apply, bind
from precis.models import Decoder, DecoderConfig
from precis.train.tasks.corpus import Corpus, read_corpus
from precis.train.tasks.draw import generator
from precis.types import PyTree, did_you_mean

# With a context of 64, 16384 bytes are predicted: about a dozen training steps' worth of time.
EVAL_BATCHES, EVAL_WINDOWS = 4, 64


def text(
    model: str = "decoder",
    *,
    files: list[str] | None = None,
    max_bytes: int = 3_000_000,
    batch_size: int = 16,
    context: int = 64,
    dim: int = 64,
    layers: int = 2,
    heads: int = 4,
    remat: bool | str = False,
) -> Text:
    """The task.

    Args:
        model: `decoder`.
        files: Globs of the files to read, `**` included; None is the standard library's `.py`.
        max_bytes: How much of them to read.
        batch_size: Windows in a training batch.
        context: Bytes that a window predicts.
        dim: See `DecoderConfig`, as for those below.
        layers: The same.
        heads: The same.
        remat: The same.
    """
    if model != "decoder":
        raise ValueError(f"task 'text' has no model {model!r}{did_you_mean(model, ['decoder'])}")
    config = DecoderConfig(dim=dim, layers=layers, heads=heads, remat=remat)
    patterns = None if files is None else tuple(files)
    return Text(config, patterns, max_bytes, batch_size, context)


@dataclass(frozen=True)
class Text:
    """Predict each next byte; judged in bits per byte on files never trained on."""

    config: DecoderConfig
    files: tuple[str, ...] | None
    max_bytes: int
    batch_size: int
    context: int
    name: str = "text"
    metric: tuple[str, Literal["min", "max"]] = ("eval_bits_per_byte", "min")
    unit: str = "bits/byte"

    @cached_property
    def corpus(self) -> Corpus:
        """The bytes, read when they are first asked for."""
        corpus = read_corpus(self.files, self.max_bytes)
        for part, data in (("train on", corpus.train), ("be judged on", corpus.held_out)):
            if len(data) <= self.context:
                raise ValueError(
                    f"task 'text' has {len(data)} bytes to {part}, and context={self.context} "
                    "takes more: name more files, or shorten the context"
                )
        return corpus

    @cached_property
    def apply(self) -> Apply:
        """The decoder's forward pass, made from its shapes alone."""
        return bind(nnx.eval_shape(lambda: Decoder(self.config, rngs=nnx.Rngs(0)))).apply

    @cached_property
    def _draw(self) -> Callable[[Array], tuple[PyTree, PyTree]]:
        # Kept, for each seed would compile it again.
        @jax.jit
        def draw(key: Array) -> tuple[PyTree, PyTree]:
            params, state, _ = bind(Decoder(self.config, rngs=nnx.Rngs(key)))
            return params, state

        return draw

    @property
    def facts(self) -> dict[str, Any]:
        """Which files were read and how they were split."""
        return self.corpus.facts

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """Fresh weights."""
        return self._draw(key)

    def batch(self, seed: int, step: int) -> PyTree:
        """Windows [batch_size, context + 1] uint8 from anywhere in the training text."""
        stop = len(self.corpus.train) - self.context
        return self._windows(
            self.corpus.train, generator(seed, step).integers(stop, size=self.batch_size)
        )

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, *, key: Array | None, train: bool
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        """Mean cross-entropy in nats, and the same in bits."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        logits, state = self.apply(params, state, inputs, key=key, train=train)
        targets = targets.astype("int32")
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
        return loss, (state, {"bits_per_byte": loss / math.log(2)})

    def eval_batches(self) -> list[PyTree]:
        """Windows spread evenly over the held-out text."""
        stop = len(self.corpus.held_out) - self.context
        starts = np.linspace(0, stop - 1, EVAL_BATCHES * EVAL_WINDOWS).astype(np.int64)
        return [
            self._windows(self.corpus.held_out, part) for part in np.split(starts, EVAL_BATCHES)
        ]

    def _windows(self, data: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return data[starts[:, None] + np.arange(self.context + 1)]
