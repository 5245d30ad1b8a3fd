"""Training steps on eight devices: `test_replicas.py` runs this as a program."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from precis.optim import reduce_gradients, varying
from precis.train import make_step
from precis.train.replicas import own_key
from precis.walk.collectives import collectives_in

EXACT = {"xla_allow_excess_precision": False}
MESH = Mesh(np.array(jax.devices()), "data")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


PARAMS = {"w": normal(0, 24, 128) / 5, "v": normal(1, 128, 8) / 12, "b": jnp.zeros(8)}
BATCH = {"x": normal(2, 64, 24), "y": normal(3, 64, 8)}
ENTRIES = 24 * 128 + 128 * 8 + 8
# The loss, a metric and the running mean, in float32 whatever r is.
OTHERS = ("all-reduce", "f32", 1 + 1 + 128)


def loss(params, state, batch, *, key, train):
    """A running mean as BatchNorm has one, a count, a metric."""
    del key, train
    h = jnp.tanh(batch["x"] @ params["w"])
    error = jnp.mean((h @ params["v"] + params["b"] - batch["y"]) ** 2)
    state = {"mean": 0.5 * state["mean"] + 0.5 * h.mean(0), "count": state["count"] + 1}
    return error, (state, {"twice": 2 * error})


def step_under(policy, **options):
    return make_step(loss, optax.adam(1e-2), policy, has_state=True, **options)


def first(step):
    return step.init(PARAMS, {"mean": jnp.zeros(128), "count": jnp.int32(0)})


def on_devices(fn, in_specs, out_specs, **options):
    sharded = jax.shard_map(fn, mesh=MESH, in_specs=in_specs, out_specs=out_specs, **options)
    return jax.jit(sharded, compiler_options=EXACT)


def trained(update, step):
    state = first(step)
    for _ in range(4):
        state, metrics = update(state, BATCH, None)
    return state.params, state.state, metrics["loss"], metrics["twice"]


@functools.cache
def alone():
    """What one device makes of four steps."""
    step = step_under("f32")
    return trained(step.update, step)


def training(policy, travels, tolerance, *, accumulate=1, **options):
    """Of four steps: what travels in each, and how far from one device's they lead."""
    step = step_under(policy, axis_name="data", jit=False, accumulate=accumulate)
    update = on_devices(step.update, (P(), P("data"), P()), P(), **options)
    compiled = update.lower(first(step), BATCH, None).compile()
    found = [(c.kind, c.dtype, c.size) for c in collectives_in(compiled.as_text(), 8)]
    assert sorted(found) == sorted(travels), found
    for got, want in zip(trained(compiled, step), alone(), strict=True):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            a, b = np.float64(a), np.float64(b)
            assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), (a, b)


def blocks(size, code_bits):
    """What travels in blocks: each leaf fills whole ones, and all of them eight equal shares."""
    leaves = sum(-(-n // size) for n in (24 * 128, 128 * 8, 8))
    rows = -(-leaves // 8) * 8
    return [*both_ways("f32", rows), *both_ways("u8", rows * size * code_bits // 8), OTHERS]


def both_ways(dtype, size):
    return [("all-to-all", dtype, size), ("all-gather", dtype, size)]


def f32():
    # Sums in another order.
    training("f32", [("all-reduce", "f32", ENTRIES + OTHERS[2])], 1e-5)


def bf16():
    training("c=f32,r=bf16", [*both_ways("u16", ENTRIES), OTHERS], 2.0**-8)


def int8():
    training("c=f32,r=int8@block256", blocks(256, 8), 2.0**-4)


def accumulated():
    # In two parts on each device, and sent once all the same. The running mean sees each part.
    training("c=f32,r=int8@block256", blocks(256, 8), 1.0, accumulate=2)


def unchecked():
    training("c=f32,r=int8@block256", blocks(256, 8), 2.0**-4, check_vma=False)


def int4():
    # Two codes a byte.
    training("c=bf16,o=f32,r=int4@block32", blocks(32, 4), 0.25)


def narrow():
    travels = [("all-reduce", "f32", ENTRIES + OTHERS[2])]
    training("p=bf16,c=bf16,o=bf16,w=bf16", travels, 2.0**-4)


def replicas():
    """All devices end with the same bits."""
    for fmt in ("f32", "bf16", "int8@block256", "nf4@block64"):

        def local(params, x, fmt=fmt):
            grads = jax.grad(lambda p: jnp.sum(jnp.tanh(x @ p["w"]) ** 3))(varying(params, "data"))
            return reduce_gradients(grads, "data", fmt)["w"][None]

        # Unchecked, each device could go its own way.
        rows = on_devices(local, (P(), P("data")), P("data"), check_vma=False)(PARAMS, BATCH["x"])
        assert len({row.tobytes() for row in np.asarray(rows)}) == 1, fmt
        assert np.asarray(rows).any(), fmt


def axes():
    """Over two axes of a mesh at once, each share comes back where it was."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    x = np.arange(8 * 4096, dtype=np.float32).reshape(8, 4096) % 251
    specs = {"in_specs": P(("a", "b")), "out_specs": P()}
    for fmt in ("f32", "bf16"):
        local = functools.partial(reduce_gradients, axis_name=("a", "b"), fmt=fmt)
        got = jax.jit(jax.shard_map(lambda x, f=local: f(x[0]), mesh=mesh, **specs))(x)
        want = x.mean(0) if fmt == "f32" else np.float32(x.mean(0).astype(jnp.bfloat16))
        np.testing.assert_array_equal(got, want)


def codes():
    """Weights that stay int8: their gradients are averaged once, and lead where one device goes."""
    how = {"master": "stochastic"}
    step = step_under("p=int8,c=f32,o=f32", axis_name="data", jit=False, **how)
    alone = step_under("p=int8,c=f32,o=f32", **how)
    update = on_devices(step.update, (P(), P("data"), P()), P())
    got, want = (take(first(step), BATCH, None) for take in (update, alone))
    np.testing.assert_allclose(got[1]["grad_norm"], want[1]["grad_norm"], rtol=1e-5)
    values = jax.tree.leaves((got[0].params, want[0].params))
    half = len(values) // 2
    assert {str(x.dtype) for x in values} == {"int8", "float32"}
    for a, b in zip(values[:half], values[half:], strict=True):
        # A draw may fall the other way where the sums of gradients run in another order.
        off = np.abs(np.float32(a) - np.float32(b))
        assert (off <= (1 if a.dtype == jnp.int8 else 1e-5)).all()
        assert (off > 1e-5).mean() < 1e-3


def skipping():
    """A NaN in the part of one device: all of them skip the step."""
    step = step_under("c=f16,o=f32,r=int8@block256", axis_name="data", jit=False)
    update = on_devices(
        lambda *args: jax.tree.map(lambda x: x[None], step.update(*args)),
        (P(), P("data"), P()),
        P("data"),
        check_vma=False,
    )
    before = first(step)
    after, metrics = update(before, BATCH | {"x": BATCH["x"].at[19, 3].set(jnp.nan)}, None)
    kept = (after.params, after.state, after.opt_state.inner)
    for new, old in zip(
        jax.tree.leaves(kept),
        jax.tree.leaves((before.params, before.state, before.opt_state.inner)),
        strict=True,
    ):
        assert {row.tobytes() for row in np.asarray(new)} == {np.asarray(old).tobytes()}
    assert metrics["skipped"].tolist() == [1] * 8
    assert after.opt_state.scale.value.tolist() == [2.0**14] * 8


def keys():
    """Each device draws from a key of its own."""

    def draw(key):
        return jax.random.bits(own_key(key, "data"))[None]

    drawn = on_devices(draw, P(), P("data"))(jax.random.key(0))
    assert len(set(drawn.tolist())) == 8
    assert own_key(None, "data") is None


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
        print(name, flush=True)
