"""`quantize_model` for linen, nnx and plain functions: one contract, against the float model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import precis
from precis.models import Decoder, DecoderConfig
from precis.quant import Kernel, QTensor, dequantize
from tests.draws import normal

X = normal(0, 4, 12, 32)


def sqnr_db(want, got):
    want, got = (np.asarray(x, np.float64) for x in (want, got))
    return 10 * np.log10(np.sum(np.square(want)) / np.sum(np.square(want - got)))


class Block(nn.Module):
    """What has every kind of parameter: kernels, biases, norms, attention's three axes."""

    dtype: object = None

    @nn.compact
    def __call__(self, x):
        own = {"dtype": self.dtype}
        x = nn.Dense(32, name="first", **own)(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4, name="mix", **own)(
            nn.LayerNorm(name="norm", **own)(x)
        )
        return nn.Dense(8, name="head", **own)(x)


@pytest.fixture(scope="module")
def block():
    variables = Block().init(jax.random.key(1), X)
    return variables, jax.jit(Block().apply)(variables, X)


# Of one sample each; a weight in int8 alone gives about 44 dB, in NF4 about 20.
LEAST_DB = {"w8a8": 34, "w8": 37, "w4": 15, "nf4": 15, "w8a8_outliers": 34, "e4m3fn": 26,
            "w8a8_fp8": 23}  # fmt: skip


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, marks=[] if mode in ("w8a8", "nf4") else pytest.mark.nightly)
        for mode in LEAST_DB
    ],
)
def test_each_mode_is_near_the_float_model(block, mode):
    variables, want = block
    fn, qparams = precis.quantize_model(Block(), variables, mode)
    got = jax.jit(fn)(qparams, X)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert sqnr_db(want, got) > LEAST_DB[mode]
    kernels = {"first/kernel", "head/kernel"} | {
        f"mix/{name}/kernel" for name in ("query", "key", "value", "out")
    }
    assert set(fn.modes) == kernels
    assert set(fn.modes.values()) == {mode}


@pytest.mark.world
def test_rules_by_path_and_what_stays_in_float(block):
    variables, _ = block
    fn, qparams = precis.quantize_model(
        Block(), variables, [("**", "w8a8"), ("mix/**", "w8"), ("head/**", "f32")]
    )
    formats = {site.site.path: site.formats for site in fn.audit(qparams, X).sites}
    assert formats["first/kernel"] == "int8·int8@channel"
    assert formats["mix/query/kernel"] == formats["mix/out/kernel"] == "bf16·int8@channel"
    assert formats["head/kernel"] == "f32"
    assert formats["mix/query/@dot0"] == "f32"
    assert fn.kept["head/kernel"] == "the rules say so"
    assert fn.unfit == {}
    assert not isinstance(qparams["params"]["head"]["kernel"], QTensor)
    again, _ = precis.quantize_model(Block(), variables, "w8a8; mix/**: w8; head/**: f32")
    assert again.policy == fn.policy


def test_a_float16_model_gives_float16(block):
    variables, want = block
    fn, qparams = precis.quantize_model(Block(dtype=jnp.float16), variables, "w8a8")
    got = jax.jit(fn)(qparams, X)
    assert got.dtype == jnp.float16
    assert sqnr_db(want, got) > 34
    low = jax.tree.map(lambda x: x.astype(jnp.float16), variables)
    fn, qparams = precis.quantize_model(Block(), low, "w8")
    got = jax.jit(fn)(qparams, X.astype(jnp.float16))
    assert got.dtype == jnp.float16
    assert "first/kernel: c=f16" in str(fn.policy)
    assert sqnr_db(want, got) > 37


def test_gradients_with_respect_to_inputs(block):
    variables, _ = block
    fn, qparams = precis.quantize_model(Block(), variables, "w8a8")
    loss = lambda fn, p: jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(fn(p, x)))))  # noqa: E731
    got = loss(fn, qparams)(X)
    want = loss(Block().apply, variables)(X)
    assert sqnr_db(want, got) > 25


def test_a_weight_that_cannot_be_quantized_stays_and_is_named():
    params = {"a": jnp.ones((8, 4))}
    with jax.enable_x64():
        wide = jnp.ones((4, 4), jnp.float64)
    fn, qparams = precis.quantize_model(
        lambda p, x: (x @ p["a"]) @ p["b"].astype(jnp.float32), params | {"b": wide}, "w8"
    )
    assert "float64" in fn.kept["b"]
    assert fn.unfit == {"b": fn.kept["b"]}
    assert qparams["b"] is wide


def test_calibrated_inputs(block):
    params = {"w": jnp.ones((8, 4)) / 8}
    model = lambda p, x: x @ p["w"]  # noqa: E731
    with pytest.raises(ValueError, match="input_amax"):
        precis.quantize_model(model, params, "w8a8_static")
    fn, qparams = precis.quantize_model(model, params, "w8a8_static", input_amax={"w": 127.0})
    assert isinstance(qparams["w"], Kernel)
    x = jnp.full((1, 8), 3.4)
    np.testing.assert_allclose(jax.jit(fn)(qparams, x), 3.0, rtol=1e-6)


def product(p, x):
    return x @ p["w"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("w8a9", "'w8a9' is no mode, .*; did you mean 'w8a8'"),
        ("", "no mode"),
        ("f16", "f16@channel would scale it"),
        ("w8; head/**", "rule 'head/[*][*]' in 'w8; head/[*][*]': a pattern, a colon"),
        ([], "got none"),
        (None, "a mode such as 'w8a8' or rules"),
        ({"**": "w8"}, "a mode such as 'w8a8' or rules"),
        ([("**",)], "a rule is"),
        ([("", "w8")], "has no pattern"),
        ("e8m0", "nothing is quantized: .*; w: .* no negative values"),
    ],
)
def test_bad_modes(bad, message):
    with pytest.raises((ValueError, TypeError), match=message):
        precis.quantize_model(product, {"w": jnp.ones((4, 4))}, bad)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_amax": {"v": 1.0}}, "input_amax of 'v': there are w"),
        ({"input_amax": {"w": np.ones(3)}}, r"is \[3\]: a number .* weight \[4, 4\]"),
        ({"smoothing": {"w": np.ones((4, 1, 1))}}, r"smoothing of 'w' is \[4, 1, 1\]"),
        ({"outliers": -1}, "outliers is how many columns"),
        ({"calibrate": "mean"}, "no calibration is called 'mean'"),
    ],
)
def test_what_is_given_of_inputs_is_checked(given, message):
    with pytest.raises(ValueError, match=message):
        precis.quantize_model(product, {"w": jnp.ones((4, 4))}, "w8a8_static", **given)


def test_formats_without_sign_come_with_a_zero_point():
    w = jax.random.normal(jax.random.key(2), (32, 8))
    fn, qparams = precis.quantize_model(product, {"w": w}, "uint8", calibrate="minmax")
    assert fn.modes == {"w": "uint8"}
    assert sqnr_db(X @ w, jax.jit(fn)(qparams, X)) > 35


def test_weights_that_are_stored_already_stay_or_are_refused():
    params = {"w": jnp.ones((32, 8))}
    low = precis.quantize(params, "int8")
    fn, qparams = precis.quantize_model(product, low, "w8a8")
    assert qparams["w"] is low["w"]
    again, same = precis.quantize_model(product, params, "w8a8")
    np.testing.assert_array_equal(fn(qparams, X), again(same, X))
    with pytest.raises(ValueError, match="w is stored as int8@channel already"):
        precis.quantize_model(product, low, "nf4")
    with pytest.raises(ValueError, match="give its parameters in float"):
        precis.quantize_model(product, low, "w8a8", smoothing={"w": np.ones((32, 1))})


def test_parameters_in_float_are_no_qparams():
    params = {"w": jnp.ones((32, 8))}
    fn, qparams = precis.quantize_model(product, params, "w8")
    for wrong in ((X, qparams), (params, X)):
        with pytest.raises(TypeError, match="in few bits come first"):
            fn(*wrong)


def test_a_model_may_hand_out_its_parameters(block):
    variables, _ = block
    fn, qparams = precis.quantize_model(Block(), variables, "w8a8")
    out, after = jax.jit(lambda q, x: fn(q, x, mutable=True))(qparams, X)
    jax.tree.map(np.testing.assert_array_equal, after, qparams)
    np.testing.assert_array_equal(out, jax.jit(fn)(qparams, X))


def test_a_rule_that_matches_nothing_says_what_there_is():
    with pytest.raises(ValueError, match="matches nothing"):
        precis.quantize_model(lambda p, x: x @ p["w"], {"w": jnp.ones((4, 4))}, "w8; heads/**: f32")


class Decoding(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.MultiHeadDotProductAttention(num_heads=2, decode=True, name="mix")(x)
        return nn.Dense(8, name="head")(x + h)


def test_a_decode_step_with_a_cache():
    model, tokens = Decoding(), X[:, :6, :16]
    variables = model.init(jax.random.key(1), tokens)
    fn, qparams = precis.quantize_model(model, variables, "w8a8")
    assert isinstance(qparams["params"]["head"]["kernel"], QTensor)

    def run(fn, variables):
        step = jax.jit(lambda v, x: fn(v, x, mutable=["cache"]))
        outs = []
        for i in range(6):
            out, cache = step(variables, tokens[:, i : i + 1])
            variables = {**variables, **cache}
            outs.append(out)
        return jnp.concatenate(outs, 1), variables["cache"]

    want, cache = run(model.apply, variables)
    got, own = run(fn, qparams)
    assert sqnr_db(want, got) > 30
    assert jax.tree.map(lambda x: (x.shape, x.dtype), own) == jax.tree.map(
        lambda x: (x.shape, x.dtype), cache
    )
    assert sqnr_db(cache["mix"]["cached_key"], own["mix"]["cached_key"]) > 30


def test_linen_scans_over_layers():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(32)(nn.relu(nn.Dense(64)(x))), None

    scanned = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()
    variables = scanned.init(jax.random.key(0), X, None)
    fn, qparams = precis.quantize_model(scanned, variables, "w8a8")
    report = fn.audit(qparams, X, None)
    assert [site.formats for site in report.sites] == ["int8·int8@channel"] * 2
    assert not [finding for finding in report.findings if finding.kind == "dequantized"]
    got, want = jax.jit(fn)(qparams, X, None)[0], scanned.apply(variables, X, None)[0]
    assert sqnr_db(want, got) > 34


def test_an_nnx_decoder_and_its_bound_form():
    model = Decoder(DecoderConfig(dim=32, layers=2, heads=2), rngs=nnx.Rngs(0))
    tokens = jax.random.randint(jax.random.key(3), (2, 8), 0, 256)
    want = nnx.jit(lambda model, tokens: model(tokens))(model, tokens)
    for params in (None, nnx.state(model, nnx.Param), precis.bind(model).params):
        fn, qparams = precis.quantize_model(model, params, "w8")
        assert not [f for f in fn.audit(qparams, tokens).findings if f.kind == "dequantized"]
    got = jax.jit(fn)(qparams, tokens)
    assert got.dtype == want.dtype
    assert sqnr_db(want, got) > 34
    assert set(fn.modes) == {
        "layers/attention/qkv/kernel",
        "layers/attention/out/kernel",
        "layers/mlp/gate/kernel",
        "layers/mlp/up/kernel",
        "layers/mlp/down/kernel",
        "head/kernel",
    }
    bound = precis.bind(model)
    fn, qparams = precis.quantize_model(bound, None, "w8")
    out, state = jax.jit(fn)(qparams, bound.state, tokens)
    np.testing.assert_array_equal(out, got)
    assert state == bound.state


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(32, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.mix = nnx.MultiHeadAttention(4, 64, decode=False, rngs=rngs)

    def __call__(self, x):
        return self.mix(self.norm(self.first(x)))


@pytest.mark.world
def test_an_nnx_module_with_state():
    model = Normed(nnx.Rngs(0))
    bound = precis.bind(model)
    fn, qparams = precis.quantize_model(model, None, "w8a8")
    out, state = jax.jit(lambda p, s, x: fn(p, s, x, train=True))(qparams, bound.state, X)
    want, after = bound.apply(bound.params, bound.state, X, train=True)
    assert sqnr_db(want, out) > 30
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert sqnr_db(after["norm"]["mean"], state["norm"]["mean"]) > 30
    formats = {s.site.path: s.formats for s in fn.audit(qparams, bound.state, X).sites}
    assert formats["mix/query/kernel"] == formats["mix/out/kernel"] == "int8·int8@channel"


def test_what_the_weights_stand_for_comes_back(block):
    variables, _ = block
    _, qparams = precis.quantize_model(Block(), variables, "w8a8_outliers")
    wide = dequantize(qparams)
    assert jax.tree.structure(wide) == jax.tree.structure(variables)
    assert sqnr_db(variables["params"]["head"]["kernel"], wide["params"]["head"]["kernel"]) > 40
