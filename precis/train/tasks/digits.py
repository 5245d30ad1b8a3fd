"""`digits`: scikit-learn's 1797 handwritten digits, 8 by 8 pixels; an MLP or a CNN."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from precis.adapters import bind
from precis.models import CNN, MLP
from precis.train.tasks.draw import generator
from precis.types import PyTree, did_you_mean

# A fifth of the images, drawn once and for all: the same for each seed of each sweep.
EVAL_IMAGES = 360
SPLIT_SEED = 0


class Model(NamedTuple):
    """A way to draw weights and a way to use them."""

    init: Callable[[Array], tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[Array, PyTree]]


class Split(NamedTuple):
    """Images [n, 8, 8, 1] float32 in 0..1, labels [n] int32, and their places in the data set."""

    images: np.ndarray
    labels: np.ndarray
    places: np.ndarray


def digits(model: str = "mlp", batch_size: int = 64) -> Digits:
    """The task; `model` is `mlp` (linen) or `cnn` (nnx, with BatchNorm)."""
    models = {"mlp": _mlp, "cnn": _cnn}
    if model not in models:
        raise ValueError(f"task 'digits' has no model {model!r}{did_you_mean(model, models)}")
    return Digits(models[model](), batch_size)


@dataclass(frozen=True)
class Digits:
    """Classify a digit; judged by the cross-entropy in nats over images never trained on."""

    model: Model
    batch_size: int
    name: str = "digits"
    metric: tuple[str, Literal["min", "max"]] = ("eval_loss", "min")
    unit: str = "nats"

    @cached_property
    def splits(self) -> tuple[Split, Split]:
        """What is trained on, and what is not."""
        # Imported here: it takes longer than all else that a trial needs from this file.
        from sklearn.datasets import load_digits

        pixels, targets = load_digits(return_X_y=True)
        images = np.asarray(pixels, np.float32).reshape(-1, 8, 8, 1) / 16
        labels = np.asarray(targets, np.int32)
        places = generator(SPLIT_SEED, 0).permutation(len(labels))
        parts = places[EVAL_IMAGES:], places[:EVAL_IMAGES]
        train, held_out = (Split(images[part], labels[part], part) for part in parts)
        return train, held_out

    @property
    def facts(self) -> dict[str, Any]:
        """Sizes, and a digest of which images are held out."""
        train, held_out = self.splits
        places = np.sort(held_out.places).astype("<i8").tobytes()
        return {
            "train_images": len(train.labels),
            "eval_images": len(held_out.labels),
            "eval_images_sha256": hashlib.sha256(places).hexdigest(),
        }

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """Fresh weights."""
        return self.model.init(key)

    def batch(self, seed: int, step: int) -> PyTree:
        """Images [batch_size, 8, 8, 1] and labels [batch_size], none twice."""
        train, _ = self.splits
        chosen = generator(seed, step).choice(len(train.labels), self.batch_size, replace=False)
        return {"image": train.images[chosen], "label": train.labels[chosen]}

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, *, key: Array | None, train: bool
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        """Mean cross-entropy, with the accuracy."""
        logits, state = self.model.apply(params, state, batch["image"], key=key, train=train)
        labels = batch["label"]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        metrics = {"accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}
        return loss, (state, metrics)

    def eval_batches(self) -> list[PyTree]:
        """All held-out images at once."""
        _, held_out = self.splits
        return [{"image": held_out.images, "label": held_out.labels}]


def _mlp() -> Model:
    example = np.zeros((1, 64), np.float32)

    @jax.jit
    def init(key: Array) -> tuple[PyTree, PyTree]:
        params, state, _ = bind(MLP(), example, key=key)
        return params, state

    _, _, apply = bind(MLP(), example, key=jax.eval_shape(jax.random.key, 0))

    def apply_flat(
        params: PyTree, state: PyTree, images: Array, **kwargs: Any
    ) -> tuple[Array, PyTree]:
        return apply(params, state, images.reshape(len(images), -1), **kwargs)

    return Model(init, apply_flat)


def _cnn() -> Model:
    @jax.jit
    def init(key: Array) -> tuple[PyTree, PyTree]:
        params, state, _ = bind(CNN(rngs=nnx.Rngs(key)))
        return params, state

    return Model(init, bind(nnx.eval_shape(lambda: CNN(rngs=nnx.Rngs(0)))).apply)
