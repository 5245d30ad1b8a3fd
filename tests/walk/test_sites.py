"""Paths of matrix ops, and policies by path: what each op is called and which rule it obeys."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from precis.formats import round_to
from precis.train import make_step, value_and_grad
from precis.walk import audit, autocast

from .laws import assert_same, compiled

W = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8)), jnp.float32)


def paths(fn, params, *args, policy="mixed_bf16"):
    return [a.site.path for a in audit(fn, params, *args, policy=policy).sites]


@pytest.mark.parametrize(
    "through",
    [
        lambda w: w.T,
        lambda w: w.reshape(2, 4, 8).reshape(8, 8),
        lambda w: w * 0.5 + 1.0,
        lambda w: w[:, :4],
        lambda w: jnp.take(w, 2 * jnp.arange(3), axis=1),
        lambda w: jnp.broadcast_to(w[:, :1], (8, 8)),
        lambda w: w.astype(jnp.bfloat16).astype(jnp.float32),
        lambda w: lax.optimization_barrier(w),
        lambda w: jnp.where(jnp.eye(8, dtype=bool), 0.0, w),
    ],
)
def test_a_path_follows_the_data(through):
    fn = lambda p, x: x @ through(p["a"]["w"])  # noqa: E731
    assert paths(fn, {"a": {"w": W}}, X) == ["a/w"]


def test_a_dequantized_weight_has_the_path_of_its_codes():
    codes = jnp.asarray(W * 10, jnp.int8)
    fn = lambda p, x: x @ (p["codes"].astype(jnp.float32) * p["scale"])  # noqa: E731
    params = {"codes": codes, "scale": jnp.full(8, 0.1)}
    (site,) = audit(fn, params, X, policy="mixed_bf16; codes: k=e4m3fn").sites
    assert (site.site.path, site.site.others) == ("codes", ("scale",))
    assert str(site.roles.rhs.format) == "e4m3fn"


@pytest.mark.parametrize(
    "unpacked",
    [
        lambda q: q.astype(jnp.float32) * 0.1,
        lambda q: jnp.concatenate([q[:4] & 15, q[:4] >> 4]).astype(jnp.float32) - 8,
    ],
)
def test_codes_without_a_scale_of_their_own_are_a_kernel(unpacked):
    codes = jnp.asarray(np.arange(64).reshape(8, 8), jnp.int8)
    fn = lambda p, x: x @ unpacked(p["q"])  # noqa: E731
    (site,) = audit(fn, {"q": codes}, X, policy="mixed_bf16; q: k=e4m3fn").sites
    assert (site.site.path, str(site.roles.rhs.format)) == ("q", "e4m3fn")


def test_random_numbers_have_no_path():
    def fn(p, x):
        return (x * jax.random.normal(p["drop"]["rng"], x.shape)) @ x.T

    assert paths(fn, {"drop": {"rng": jax.random.key_data(jax.random.key(0))}}, X) == ["@dot0"]


def test_scanned_layers_have_one_path():
    def fn(p, x):
        return lax.scan(lambda h, w: (h @ w, None), x, p["blocks"]["w"])[0]

    params = {"blocks": {"w": jnp.stack([W, W])}}
    (site,) = audit(fn, params, X, policy="mixed_bf16; blocks/*: c=e4m3fn,g=f32").sites
    assert (site.site.path, site.site.rule, site.trips) == ("blocks/w", "blocks/*", 2)
    assert [str(site.roles.rhs.format), site.grads] == ["e4m3fn", "f32"]


def test_tied_embeddings_carry_both_uses():
    fn = lambda p, ids: jnp.take(p["emb"], ids, axis=0) @ p["emb"].T  # noqa: E731
    (site,) = audit(fn, {"emb": W}, jnp.array([1, 2]), policy="mixed_bf16; emb: k=e4m3fn").sites
    assert (site.site.path, site.site.rule) == ("emb", "emb")


def test_ops_without_a_parameter_are_numbered_under_the_module_upstream():
    def fn(p, x):
        q, k = x @ p["attn"]["q"], x @ p["attn"]["k"]
        return jax.nn.softmax(q @ k.T) @ x + (k @ k.T) @ q

    got = paths(fn, {"attn": {"q": W, "k": W}}, X)
    assert got == ["attn/q", "attn/k", "attn/@dot0", "attn/@dot1", "attn/@dot2", "attn/@dot3"]


def test_names_do_not_depend_on_how_often_a_loop_is_planned():
    def body(carry, w):
        h, total = carry
        h = h @ w
        return (h, total + jnp.sum(h @ h.T)), None

    fn = lambda p, x: lax.scan(body, (x, 0.0), p["w"])[0]  # noqa: E731
    assert paths(fn, {"w": jnp.stack([W, W])}, X) == ["w", "@dot0"]


def test_branches_go_on_counting_and_what_follows_goes_on_from_them():
    def fn(p, x, n):
        h = x @ p["m"]["w"]
        once = lambda h: h @ (h.T @ h)  # noqa: E731
        h = lax.cond(n > 0, once, lambda h: once(once(h)), h)
        return h @ h.T

    assert paths(fn, {"m": {"w": W}}, X, 1) == ["m/w", *(f"m/@dot{i}" for i in range(7))]


@jax.custom_jvp
def gram(x):
    return x @ x.T


@gram.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    return gram(x), dx @ x.T + x @ dx.T


def test_the_derivative_of_an_op_obeys_no_rule_for_the_op_after_it():
    def fn(p, x):
        y = gram(x @ p["m"]["w"])
        return y.sum() + lax.stop_gradient(y @ y).sum()

    def gradient(policy):
        return jax.grad(lambda p: autocast(fn, policy)(p, X))({"m": {"w": W}})["m"]["w"]

    assert paths(fn, {"m": {"w": W}}, X) == ["m/w", "m/@dot0", "m/@dot1"]
    np.testing.assert_array_equal(gradient("f32; m/@dot1: c=e5m3"), gradient("f32"))
    assert jnp.any(gradient("f32; m/@*: c=e5m3") != gradient("f32"))


def lora(p, x):
    return x @ (p["w"] + p["a"] @ p["b"])


LORA = {"a": W[:, :2], "b": W[:2], "w": W}


@jax.custom_vjp
def joined(g, v):
    return g + v


joined.defvjp(lambda g, v: (g + v, None), lambda _, ct: (ct, ct))


@pytest.mark.parametrize(
    "both",
    [
        lambda g, v, n: g * v / jnp.linalg.norm(v, axis=0),
        lambda g, v, n: jnp.concatenate([g, v], axis=1),
        lambda g, v, n: g.at[:2].set(v[:2]),
        lambda g, v, n: lax.cond(n > 0, lambda: v, lambda: g),
        lambda g, v, n: joined(g, v),
    ],
)
def test_an_op_names_all_parameters_of_its_operand(both):
    fn = lambda p, x, n: x @ both(p["g"], p["v"], n)  # noqa: E731
    *_, last = audit(fn, {"g": W, "v": W}, X, 1, policy="mixed_bf16").sites
    assert (last.site.path, last.site.others) == ("g", ("v",))


@pytest.mark.parametrize(
    ("rules", "decides"),
    [("", None), ("; w: c=f16", "w"), ("; w: c=f16; b: c=f32", "w"), ("; b: c=f16", None)],
)
def test_of_two_parameters_the_nearest_decides(rules, decides):
    *_, last = audit(lora, LORA, X, policy=f"mixed_bf16{rules}").sites
    assert (last.site.path, last.site.others, last.site.rule) == ("w", ("a", "b"), decides)
    assert str(last.roles.lhs.format) == ("f16" if decides else "bf16")


def two_layers(p, x):
    return jnp.tanh(x @ p["body"]["w"]) @ p["head"]["w"]


PARAMS = {"body": {"w": W}, "head": {"w": W}}


def bf16(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def grid(seed, *shape, least, step):
    """Numbers of either sign in [least, 2), so few bits that every sum below is exact."""
    draw = np.random.default_rng(seed)
    sizes = least + step * draw.integers(0, round((2 - least) / step), shape)
    return jnp.asarray(sizes * draw.choice([-1, 1], shape), jnp.float32)


def relu_layers(p, x):
    return jax.nn.relu(x @ p["body"]["w"]) @ p["head"]["w"]


def by_hand(params, x, *, head):
    """`relu_layers` and its gradients under mixed_bf16, `head` done to the head's operands."""
    dot = lambda a, b: lax.dot(a, b, precision="highest")  # noqa: E731
    body, last = params["body"]["w"], params["head"]["w"]
    before = bf16(dot(bf16(x), bf16(body)))
    hidden = jnp.maximum(before, 0)
    y = bf16(dot(head(hidden), head(last)))
    g = jnp.ones_like(y)
    back = bf16(dot(head(g), head(last).T)) * (before > 0).astype(y.dtype)
    return y, {
        "body": {"w": dot(bf16(x).T, back)},
        "head": {"w": dot(head(hidden).T, head(g))},
    }


def test_a_rule_changes_the_numbers_of_its_op_and_no_others():
    # The head's parameter has nine bits, of which bfloat16 keeps eight.
    params = {
        "body": {"w": grid(0, 8, 8, least=0.25, step=0.25)},
        "head": {"w": grid(1, 8, 8, least=1, step=2**-8)},
    }
    x = grid(2, 4, 8, least=0.25, step=0.25)

    def run(policy):
        y, pull = jax.vjp(lambda p: autocast(relu_layers, policy)(p, x), params)
        return y, pull(jnp.ones_like(y))[0]

    low, high = (by_hand(params, x, head=head) for head in (bf16, lambda x: x))
    assert_same(run("mixed_bf16"), low)
    assert_same(run("mixed_bf16; head/**: c=f32"), high)
    # The rule shows in what the head computes, forward and backward.
    assert jnp.any(low[0] != high[0])
    assert jnp.any(low[1]["body"]["w"] != high[1]["body"]["w"])


def test_a_rule_for_an_op_without_a_parameter():
    fn = lambda p, x: (lambda h: h @ h.T)(x @ p["attn"]["w"])  # noqa: E731
    got = compiled(autocast(fn, "mixed_bf16; attn/@dot0: c=e5m3"))({"attn": {"w": W}}, X)
    h = bf16(lax.dot(bf16(X), bf16(W), precision="highest"))
    coarse = round_to(h, "e5m3")
    np.testing.assert_array_equal(got, bf16(lax.dot(coarse, coarse.T, precision="highest")))


def test_weight_gradients_are_rounded_by_path():
    policy = "f32; head/**: w=e8m4"
    grads = jax.grad(lambda p: autocast(two_layers, policy)(p, X).sum())(PARAMS)
    rounded = {k: bool(jnp.all(g["w"].view(jnp.uint32) << 13 == 0)) for k, g in grads.items()}
    assert rounded == {"body": False, "head": True}


def test_wide_gradients_of_narrow_parameters_by_path():
    narrow = jax.tree.map(lambda w: w.astype(jnp.bfloat16), PARAMS)
    policy = "p=bf16,c=bf16,o=f32; head/**: w=f32"
    _, grads = value_and_grad(lambda p, x: two_layers(p, x).sum(), policy)(narrow, X)
    assert {k: str(g["w"].dtype) for k, g in grads.items()} == {
        "body": "bfloat16",
        "head": "float32",
    }


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.relu(nn.Dense(8, name="body")(x)))


class Nnx(nnx.Module):
    def __init__(self):
        self.body, self.head = (
            nnx.Linear(8, 8, rngs=nnx.Rngs(0)),
            nnx.Linear(8, 3, rngs=nnx.Rngs(0)),
        )

    def __call__(self, x):
        return self.head(nnx.relu(self.body(x)))


@pytest.mark.world
def test_one_rule_for_linen_nnx_and_plain_functions():
    policy = "mixed_bf16; head/**: c=e5m7"
    with jax.numpy_dtype_promotion("standard"):
        linen = Linen()
        variables = linen.init(jax.random.key(0), X)
        graph, state = nnx.split(Nnx())
        found = [
            audit(linen.apply, variables, X, policy=policy),
            audit(lambda s, x: nnx.merge(graph, s)(x), nnx.to_pure_dict(state), X, policy=policy),
            audit(lambda s, x: nnx.merge(graph, s)(x), state, X, policy=policy),
            audit(lambda p, x: two_layers(p, x), PARAMS, X, policy=policy),
        ]
    for report in found:
        body, head = report.sites
        assert (body.site.rule, head.site.rule) == (None, "head/**")
        assert head.site.path in ("head/kernel", "head/w")
        assert [str(site.roles.rhs.format) for site in (body, head)] == ["bf16", "e5m7"]


@pytest.mark.parametrize(
    ("policy", "params", "message"),
    [
        (
            "f32; blocks/3/*: c=bf16",
            {"blocks": {"kernel": jnp.stack([W] * 12)}},
            "rule 'blocks/3/*' matches nothing: blocks are scanned (blocks/kernel [12, …]); "
            "nearest: 'blocks/*'",
        ),
        (
            "f32; haed/**: c=bf16",
            PARAMS,
            "rule 'haed/**' matches nothing: there are body/w, head/w; nearest: 'head/**'",
        ),
        (  # a number, but nothing is scanned
            "f32; head/3/*: c=bf16",
            PARAMS,
            "rule 'head/3/*' matches nothing: there are body/w, head/w; nearest: 'head/w'",
        ),
        (
            "f32; blocks/3: c=bf16",
            {"blocks": {"kernel": jnp.stack([W] * 12)}},
            "rule 'blocks/3' matches nothing: blocks are scanned (blocks/kernel [12, …]); "
            "nearest: 'blocks/**'",
        ),
    ],
)
def test_a_rule_that_matches_nothing(policy, params, message):
    def scanned(p, x):
        return lax.scan(lambda h, w: (h @ w, None), x, p["blocks"]["kernel"])[0]

    with pytest.raises(ValueError, match=re.escape(message)):
        autocast(scanned if "blocks" in params else two_layers, policy)(params, X)


def test_of_many_paths_the_likest_are_shown():
    params = {f"layer_{i}": {"kernel": W} for i in range(9)} | {"unembed": {"kernel": W}}
    message = r"unembed/kernel and 4 more; nearest: 'unembed/\*'"
    with pytest.raises(ValueError, match=message):
        audit(lambda p, x: x @ p["unembed"]["kernel"], params, X, policy="f32; unembd/*: c=bf16")


def test_a_training_step_takes_rules():
    import optax

    def loss(params, batch):
        body, head = (params[name]["w"].astype(jnp.float32) for name in ("body", "head"))
        return jnp.mean((jnp.tanh(batch @ body) @ head) ** 2)

    losses = []
    with jax.numpy_dtype_promotion("standard"):
        step = make_step(loss, optax.adam(1e-2), "mixed_bf16; head/**: c=e5m7,p=bf16")
        state = step.init(PARAMS)
        assert state.params["head"]["w"].dtype == jnp.bfloat16
        for _ in range(5):
            state, metrics = step(state, X)
            losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert state.params["head"]["w"].dtype == jnp.bfloat16
