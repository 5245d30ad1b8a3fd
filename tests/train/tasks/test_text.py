"""`text`: windows, bits, and that the decoder learns."""

import math

import jax
import numpy as np
import pytest

from precis.train.task import load_task
from tests.train.tasks.contract import check_task, train


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        # Each byte is its predecessor plus one, from a random start: learned in no time.
        start = rng.integers(256)
        (tmp_path / f"{i}.txt").write_bytes(bytes((start + j) % 256 for j in range(500)))
    return [str(tmp_path / "*.txt")]


def small(files, **options):
    return load_task("text", files=files, batch_size=8, context=16, dim=16, **options)


@pytest.mark.world
def test_contract(files):
    check_task(small(files), small(files))


def test_the_decoder_learns_to_count(files):
    _, metrics = train(small(files), steps=100, learning_rate=1e-2)
    # 8 bits is chance; the starts are few, so what is seen in training is seen again.
    assert metrics["bits_per_byte"] < 1


def test_bits_are_the_loss_in_base_two(files):
    task = small(files)
    params, state = task.init(jax.random.key(0))
    loss, (_, metrics) = jax.jit(task.loss, static_argnames="train")(
        params, state, task.batch(0, 0), key=None, train=True
    )
    np.testing.assert_allclose(metrics["bits_per_byte"], loss / math.log(2), rtol=1e-6)
    assert 7 < metrics["bits_per_byte"] < 10, "an untrained model knows nothing"


def test_windows_are_pieces_of_the_text(files):
    task = small(files)
    for batch, data in (
        (task.batch(0, 0), task.corpus.train),
        *((b, task.corpus.held_out) for b in task.eval_batches()),
    ):
        text = data.tobytes()
        assert batch.shape[1] == 17
        assert batch.dtype == np.uint8
        assert all(window.tobytes() in text for window in batch)


def test_evaluation_reaches_from_the_first_byte_to_the_last(files):
    task = small(files)
    first, last = task.eval_batches()[0][0], task.eval_batches()[-1][-1]
    assert first.tobytes() == task.corpus.held_out[:17].tobytes()
    assert last.tobytes() == task.corpus.held_out[-17:].tobytes()


def test_remat_changes_memory_and_not_the_gradient(files):
    plain, remat = small(files), small(files, remat=True)
    params, state = plain.init(jax.random.key(0))
    batch = plain.batch(0, 0)

    def program(task):
        return jax.grad(lambda p: task.loss(p, state, batch, key=None, train=True)[0])

    # Other fusions round elsewhere; sums here have at most 8 · 16 terms of order 1e-2.
    for a, b in zip(
        *(jax.tree.leaves(jax.jit(program(t))(params)) for t in (plain, remat)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    assert "remat" in str(jax.make_jaxpr(program(remat))(params))
    assert "remat" not in str(jax.make_jaxpr(program(plain))(params))


def test_too_little_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"has 4 bytes to train on, and context=16 takes more"):
        small([str(tmp_path / "a.txt")]).eval_batches()
