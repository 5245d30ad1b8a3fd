"""`digits`: its split, its batches, and that both models learn."""

import hashlib

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from precis.train.task import load_task
from precis.tree import leaves_with_paths
from tests.train.tasks.contract import check_task, train

MODELS = ("mlp", "cnn")


@pytest.fixture(scope="module")
def mlp():
    return load_task("digits", "mlp")


@pytest.mark.world
@pytest.mark.parametrize("model", MODELS)
def test_contract(model):
    check_task(load_task("digits", model), load_task("digits", model))


# A linear classifier on these pixels has about 0.95 of held-out images right, chance 0.1.
@pytest.mark.parametrize(("model", "steps", "accuracy"), [("mlp", 60, 0.9), ("cnn", 60, 0.6)])
def test_models_learn(model, steps, accuracy):
    _, metrics = train(load_task("digits", model), steps=steps, learning_rate=1e-2)
    assert metrics["accuracy"] > accuracy


def test_the_mlp_is_the_first_model(mlp):
    shapes = [jax.eval_shape(task.init, jax.random.key(0)) for task in (mlp, load_task("digits"))]
    assert shapes[0] == shapes[1]


def test_every_image_is_on_one_side(mlp):
    train, held_out = mlp.splits
    assert sorted([*train.places, *held_out.places]) == list(range(1797))
    pixels, labels = load_digits(return_X_y=True)
    for part in mlp.splits:
        np.testing.assert_array_equal(part.images.reshape(-1, 64) * 16, pixels[part.places])
        np.testing.assert_array_equal(part.labels, labels[part.places])


def test_every_digit_is_held_out(mlp):
    _, held_out = mlp.splits
    assert np.bincount(held_out.labels, minlength=10).min() >= 20


def test_facts_name_the_held_out_images(mlp):
    _, held_out = mlp.splits
    places = b"".join(int(i).to_bytes(8, "little") for i in sorted(held_out.places))
    assert mlp.facts == {
        "train_images": 1437,
        "eval_images": 360,
        "eval_images_sha256": hashlib.sha256(places).hexdigest(),
    }


def test_batches_have_each_image_once_and_none_held_out(mlp):
    train, _ = mlp.splits
    known = {image.tobytes() for image in train.images}
    batch = mlp.batch(3, 5)
    images = [image.tobytes() for image in batch["image"]]
    assert len(images) == 64
    assert set(images) <= known
    # Some images of the data set are equal; the 64 drawn with replacement would repeat more.
    assert len(set(images)) >= 63


def test_running_statistics_are_state_and_move():
    task = load_task("digits", "cnn")
    params, state = task.init(jax.random.key(0))
    assert [path for path, _ in leaves_with_paths(state)] == [
        f"norm{i}/{name}" for i in (1, 2) for name in ("mean", "var")
    ]
    batch = task.batch(0, 0)
    loss = jax.jit(task.loss, static_argnames="train")
    _, (trained, _) = loss(params, state, batch, key=None, train=True)
    _, (judged, _) = loss(params, state, batch, key=None, train=False)
    for old, new, same in zip(*map(jax.tree.leaves, (state, trained, judged)), strict=True):
        assert (np.asarray(old) != np.asarray(new)).any()
        np.testing.assert_array_equal(old, same)
