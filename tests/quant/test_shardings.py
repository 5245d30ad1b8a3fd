"""Codes and scales lie where their float would, on four devices of a CPU."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from precis.quant import Kernel, quantize, shardings_like

PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from precis.quant import dequantize, quantize, shardings_like

mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
params = {"x": {"kernel": jnp.arange(64.0 * 16).reshape(64, 16)}, "bias": jnp.ones(16)}
floats = {"x": {"kernel": NamedSharding(mesh, P("a", "b"))}, "bias": NamedSharding(mesh, P("b"))}
out = {}
for fmt in ("int8", "int4@block16"):
    whole = quantize(params, fmt)
    wanted = shardings_like(jax.eval_shape(lambda p: quantize(p, fmt), params), floats)
    placed = jax.device_put(whole, wanted)
    made = jax.jit(lambda p: quantize(p, fmt), out_shardings=wanted)(params)
    same = all(
        np.array_equal(np.asarray(x), np.asarray(y)) and x.sharding == y.sharding
        for x, y in zip(jax.tree.leaves(placed), jax.tree.leaves(made))
    )
    q = placed["x"]["kernel"]
    shard = lambda x: list(x.addressable_shards[0].data.shape)
    out[fmt] = [same, shard(q.values), shard(q.scale),
                bool((dequantize(q) == dequantize(whole["x"]["kernel"])).all())]
try:
    shardings_like(quantize({"w": jnp.ones((64, 2))}, "int4"), NamedSharding(mesh, P(None, "b")))
except ValueError as error:
    out["error"] = str(error)
print(json.dumps(out))
"""


@pytest.mark.world
def test_on_four_devices():
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["int8"] == [True, [32, 8], [1, 8], True]
    assert found["int4@block16"] == [True, [32, 4], [2, 8], True]
    assert "1 bytes along axis -1 are not divided among 2 devices" in found["error"]


def test_specs_alone():
    params = {"kernel": jnp.ones((3, 64, 16)), "bias": jnp.ones((3, 16))}
    shapes = jax.eval_shape(lambda p: quantize(p, "nf4"), params)
    specs = shardings_like(shapes, {"kernel": P(None, "a", "b"), "bias": P("b")})
    assert specs["bias"] == P("b")
    q = specs["kernel"]
    assert (q.values, q.scale) == (P(None, "a", "b"), P(None, None, "b"))
    assert shardings_like(shapes, P())["kernel"].values == P(None, None, None)
    by = jnp.ones((3, 64, 1))
    kernel = Kernel(shapes["kernel"], input_amax=jnp.ones((3, 1, 1)), smoothing=by)
    placed = shardings_like({"kernel": kernel}, {"kernel": P("c", "a", "b")})["kernel"]
    assert placed.weight == shardings_like(shapes["kernel"], P("c", "a", "b"))
    assert (placed.input_amax, placed.smoothing) == (P("c", None, None), P("c", "a", None))
    with pytest.raises(ValueError, match="2 parameters and 1 shardings"):
        shardings_like(shapes, {"kernel": P()})
