"""Random bits: one to one, uniform, and two elements of one word as good as independent."""

import jax
import numpy as np
import pytest

from precis.formats.noise import _hashed, random_bits


@pytest.mark.nightly
def test_the_hash_is_one_to_one():
    seen = np.zeros(2**32, bool)
    run = jax.jit(_hashed)
    for start in range(0, 2**32, 2**26):
        seen[
            np.asarray(run(np.arange(start, start + 2**26, dtype=np.uint64).astype(np.uint32)))
        ] = 1
    assert seen.all()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (3, 8), (2, 0, 4)])
def test_any_shape(shape):
    assert random_bits(jax.random.key(0), shape, np.uint32).shape == shape


def test_every_bit_is_even_and_no_two_agree_by_more_than_chance():
    n = 2**20
    bits = np.asarray(random_bits(jax.random.key(0), (n,), np.uint32))
    first, second = bits[: n // 2], bits[n // 2 :]
    # Six standard deviations of a mean of so many fair coins.
    bound = 6 * 0.5 / np.sqrt(n // 2)
    rows = [(half[:, None] >> np.arange(32, dtype=np.uint32)) & 1 for half in (first, second)]
    for row in rows:
        assert (np.abs(row.mean(0) - 0.5) < bound).all()
    together = rows[0].astype(np.float32).T @ rows[1].astype(np.float32) / (n // 2)
    apart = 1 - rows[0].mean(0)[:, None] - rows[1].mean(0) + together
    # 1024 pairs of bits: agreement is a fair coin for each.
    assert (np.abs(together + apart - 0.5) < bound).all()


def test_elements_of_one_word_round_up_together_as_often_as_by_chance():
    n = 2**20
    bits = np.asarray(random_bits(jax.random.key(1), (n,), np.uint32)).astype(np.float64) / 2**32
    for p in (0.5, 0.1, 0.01):
        both = ((bits[: n // 2] < p) & (bits[n // 2 :] < p)).mean()
        assert abs(both - p * p) < 6 * p / np.sqrt(n // 2)
