"""shard_map under a policy, on eight devices: `test_devices.py` runs this as a program."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from precis.quant import quantize_array, shardings_like
from precis.walk import audit, autocast

EXACT = {"xla_allow_excess_precision": False, "xla_backend_optimization_level": 0}
MESH = Mesh(np.array(jax.devices()), ("i",))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


PARAMS = {"w": normal(0, 16, 16) / 4, "v": normal(1, 16, 16) / 4}
X = normal(2, 32, 16)


def on_devices(fn, in_specs, out_specs, **options):
    return jax.shard_map(fn, mesh=MESH, in_specs=in_specs, out_specs=out_specs, **options)


def data_parallel(params, x):
    def local(params, x):
        h = jnp.tanh(x @ params["w"])
        h = h - lax.pmean(h.mean(0), "i")
        return lax.pmean(((h @ params["v"]) ** 2).mean(), "i")

    return on_devices(local, (P(), P("i")), P())(params, x)


def tensor_parallel(params, x):
    """Columns, rows, a sum over devices, and every way to move what they hold."""

    def local(params, x):
        h = jnp.tanh(x @ params["w"])
        y = lax.psum(h @ params["v"], "i")
        ring = lax.ppermute(h, "i", [(k, (k + 1) % 8) for k in range(8)])
        everything = lax.all_gather(ring, "i", axis=1, tiled=True)
        rows = lax.psum_scatter(everything * y, "i", tiled=True)
        turned = lax.all_to_all(rows, "i", 1, 0, tiled=True)
        largest = lax.pmax(lax.stop_gradient(turned).max(), "i")
        return y, (turned / largest).T, lax.axis_index("i")[None] * 2

    specs = {"w": P(None, "i"), "v": P("i")}
    y, turned, index = on_devices(local, (specs, P()), (P(), P(None, "i"), P("i")))(params, x)
    return (y**2).mean() + (turned**2).mean() + 0 * index.sum().astype(y.dtype)


def gathered_weights(params, x):
    """Parameters in shards, gathered where they are used; a loop and a choice inside."""

    def local(params, x):
        w = lax.all_gather(params["w"], "i", tiled=True)

        def step(h, _):
            h = lax.cond(h.sum() > 0, lambda h: jnp.tanh(h @ w), lambda h: h, h)
            return h, lax.pmean((h**2).mean(), "i")

        return jax.checkpoint(lambda x: lax.scan(step, x, None, length=2)[1])(x)

    specs = {"w": P("i"), "v": P()}
    return on_devices(local, (specs, P("i")), P())(params, x).sum()


def unchecked(params, x):
    def local(params, x):
        return lax.psum((jnp.tanh(x @ params["w"]) ** 2).sum(), "i")[None]

    return on_devices(local, (P(), P("i")), P(), check_vma=False)(params, x)[0]


@jax.custom_jvp
def layer(w, x):
    return jnp.round(x @ w)


layer.defjvp(lambda p, t: (layer(*p), t[1] @ p[0] + p[1] @ t[0]))


def ruled(params, x):
    """A rule of the user's, and a loop whose length is data."""

    def local(params, x):
        y = layer(params["w"], jnp.tanh(x))
        trips = lax.while_loop(lambda n: n < jnp.abs(y).max() + 3, lambda n: n * 2, x.max())
        return lax.psum((y * lax.stop_gradient(trips)).mean(), "i")

    return on_devices(local, (P(), P("i")), P())(params, x)


def inside(policy):
    """autocast of what each device runs, rather than of the whole."""

    def local(params, x):
        def loss(params, x):
            return lax.psum(jnp.square(jnp.tanh(x @ params["w"]) @ params["v"]).mean(), "i")

        return autocast(loss, policy)(params, x)

    return on_devices(local, (P(), P("i")), P())


def run(fn):
    grad = jax.value_and_grad(fn, (0, 1))
    return jax.jit(grad, compiler_options=EXACT)(PARAMS, X)


def assert_same(got, want):
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), got, want)


def assert_near(got, want, eps):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.linalg.norm(np.asarray(a - b)) <= eps * np.linalg.norm(np.asarray(b)) + 1e-7


def check(fn):
    want = run(fn)
    same = run(autocast(fn, "f32"))
    assert_same(same[0], want[0])
    assert_near(same[1], want[1], 2.0**-18)
    low = run(autocast(fn, "c=bf16,o=f32"))
    assert_same(run(autocast(fn, "c=e8m7,o=f32")), low)
    assert_near(low, want, 2.0**-4)
    assert_same(run(fn), want)
    assert audit(fn, PARAMS, X, policy="mixed_bf16").in_force == 1


def check_inside():
    low = run(inside("c=bf16,o=f32"))
    assert_same(run(inside("c=e8m7,o=f32")), low)
    assert_near(run(inside("f32")), low, 2.0**-4)


def check_noise():
    """Devices draw for themselves what differs between them, and alike what is the same."""
    policy = "p=f32,c=e4m3(stochastic),k=f32,g=int8(stochastic),x=f32,o=f32"
    eye, key = jnp.eye(16), jax.random.key(0)
    alike = jnp.tile(X[:4], (8, 1))
    product = lambda w, x: x @ w  # noqa: E731
    for options in ({}, {"check_vma": False}):
        shards = on_devices(product, (P(), P("i")), P("i"), **options)

        def loss(w, x, key, fn=shards):
            y = autocast(fn, policy, key=key)(w, x)
            return (y * alike).sum(), y

        grad = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
        (dw, dx), y = grad(eye, alike, key)
        assert_same(((dw, dx), y), grad(eye, alike, key))
        for rows in (y, dx):
            blocks = [np.asarray(block).tobytes() for block in jnp.split(rows, 8)]
            assert len(set(blocks)) == 8
    whole = on_devices(product, (P(), P()), P())
    y = jax.jit(autocast(whole, policy, key=key))(eye, alike)
    assert (y != alike).any()

    def local(key, w, x):
        return autocast(product, policy, key=key)(w, x)

    drawn = jax.jit(on_devices(local, (P(), P(), P("i")), P("i")))(key, eye, alike)
    assert (drawn[:4] != drawn[4:8]).any()


def check_stored():
    """Weights in few bits inside shard_map: whole beside parts of the input, and in parts."""
    q = quantize_array(PARAMS["w"], "int8")
    fn = autocast(lambda q, x: jnp.tanh(x @ q), "c=int8,x=f32,o=f32")
    want = jax.jit(fn)(q, X)
    rows, columns = P("i"), P(None, "i")
    split = shardings_like(q, columns)
    for specs, out in (((P(), rows), rows), ((split, P()), columns)):
        assert_same(jax.jit(on_devices(fn, specs, out))(q, X), want)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        match name:
            case "inside":
                check_inside()
            case "noise":
                check_noise()
            case "stored":
                check_stored()
            case _:
                check(globals()[name])
        print(name, flush=True)
