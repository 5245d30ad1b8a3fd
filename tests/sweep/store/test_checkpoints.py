import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from precis.sweep.store.checkpoints import opened, restore, save

DTYPES = ["float32", "float16", "bfloat16", "int32", "uint8", "bool"]
SMALL = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3", "float8_e8m0fnu"]


def all_codes(name):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    codes = np.arange(2 ** min(8 * dtype.itemsize, 16), dtype=np.uint32)
    if name == "bool":
        return codes[:2].astype(bool)
    return codes.astype(f"u{dtype.itemsize}").view(dtype)


@pytest.mark.parametrize("name", DTYPES + SMALL)
def test_every_code_comes_back(tmp_path, name):
    state = {"a": {"kernel": jnp.asarray(all_codes(name))}, "n": jnp.int32(3)}
    with opened(tmp_path) as manager:
        save(manager, 5, state)
    with opened(tmp_path) as manager:
        found = restore(manager, state)
    assert found is not None
    assert found.step == 5
    back = found.state["a"]["kernel"]
    assert back.dtype == state["a"]["kernel"].dtype
    assert np.asarray(back).tobytes() == all_codes(name).tobytes()


@pytest.mark.world
def test_keys_and_tuples_come_back(tmp_path):
    state = (jax.random.key(3), [jnp.ones(2)], {})
    with opened(tmp_path) as manager:
        save(manager, 1, state)
        found = restore(manager, state)
    assert found is not None
    key, ones, empty = found.state
    assert jnp.array_equal(jax.random.bits(key, 4), jax.random.bits(jax.random.key(3), 4))
    assert (ones[0].tolist(), empty) == ([1.0, 1.0], {})


@pytest.mark.parametrize(
    "template",
    [
        {"w": jnp.zeros(3, jnp.bfloat16)},
        {"w": jnp.zeros(3, jnp.float16)},
        {"w": jnp.zeros(4)},
        {"v": jnp.zeros(3)},
    ],
)
def test_nothing_is_cast_or_guessed(tmp_path, template):
    with opened(tmp_path) as manager:
        save(manager, 1, {"w": jnp.ones(3)})
        with pytest.raises(ValueError, match="the checkpoint"):
            restore(manager, template)


def test_only_the_newest_is_kept(tmp_path):
    with opened(tmp_path) as manager:
        assert restore(manager, {"w": jnp.ones(3)}) is None
        for step in (1, 2, 2, 3):
            save(manager, step, {"w": jnp.full(3, step)})
        assert manager.all_steps() == [3]
