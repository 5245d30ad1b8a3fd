"""Draws by (seed, step)."""

import numpy as np

from precis.train.tasks.draw import generator


def test_each_seed_and_step_draws_its_own():
    draws = {
        (seed, step): generator(seed, step).integers(2**63, size=100).tobytes()
        for seed in range(5)
        for step in range(20)
    }
    assert len(set(draws.values())) == 100
    assert generator(3, 4).integers(2**63, size=100).tobytes() == draws[3, 4]


def test_steps_do_not_overlap():
    # Neighboring counters would give one step's draws to the next, shifted by four.
    one, two = (set(generator(0, step).integers(2**63, size=1000).tolist()) for step in (0, 1))
    assert one.isdisjoint(two)


def test_bits_are_those_of_philox():
    # Philox4x64-10 of Salmon et al. 2011 for counter and key zero, as Random123's tests have it.
    # NumPy counts up before it draws, hence the counter of all ones.
    ones = 2**64 - 1
    raw = np.random.Philox(key=0, counter=[ones] * 4).random_raw(4)
    known = ["16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b"]
    assert [f"{word:016x}" for word in raw] == known
