"""The drop-in side by side with jmp itself, on the same inputs, and where jmp is wrong."""

import inspect
import pathlib
import types
import unittest

import jax
import jax.numpy as jnp
import jmp as theirs
import numpy as np
import optax
import pytest

import precis
from precis.compat import jmp as ours

F16, BF16, F32 = jnp.float16, jnp.bfloat16, jnp.float32
TRUE, FALSE = jnp.bool_(True), jnp.bool_(False)

# jmp's own tests, file by file: how many there are, and which do not pass here, and why.
SUITES = {
    "loss_scale": (
        25,
        {
            # A number of another type is turned into float32 instead of warned of.
            "test_dynamic_loss_scale_raises_type_error_on_int_loss_scale",
            "test_dynamic_loss_scale_raises_type_error_on_int_min_loss_scale",
            # The smallest scale is a leaf too, so that jit does not lose it.
            "test_dynamic_loss_scale_tree",
            # A ValueError that says what came, and no assertion.
            "test_select_tree_rejects_non_scalar",
            # A static scale of 0 is refused: it cannot be taken off again.
            "test_static_empty_trees_StaticLossScale",
        },
    ),
    "policy": (
        72,
        {
            # Other words for an unknown dtype.
            "test_get_policy_almost_dtype",
            # They look into a private table; `test_texts_are_jmps` asks the same without it.
            *(f"test_str{number}" for number in range(5)),
        },
    ),
}


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("file", SUITES)
def test_jmps_own_tests_pass(file):
    count, different = SUITES[file]
    path = pathlib.Path(theirs.__file__).parent / "_src" / f"{file}_test.py"
    its_import = f"from jmp._src import {file} as jmp"
    source = path.read_text()
    assert its_import in source
    module = types.ModuleType(path.stem)
    exec(source.replace(its_import, "from precis.compat import jmp"), module.__dict__)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    failed = (test.id().split()[0] for test, _ in result.failures + result.errors)
    assert {name.split(".")[-1] for name in failed} == different
    assert result.testsRun == count


def test_every_name_field_and_parameter_of_jmp_is_there():
    assert set(ours.__all__) == set(theirs.__all__)
    for name in set(theirs.__all__) - {"LossScale"}:
        wanted, found = getattr(theirs, name), getattr(ours, name)
        parts = [(wanted, found)]
        if inspect.isclass(wanted):
            verbs = [verb for verb, fn in vars(wanted).items() if inspect.isfunction(fn)]
            verbs = [verb for verb in verbs if not verb.startswith(("_", "tree_"))]
            parts += [(getattr(wanted, verb), getattr(found, verb)) for verb in verbs]
        for one, other in parts:
            assert [*inspect.signature(other).parameters] == [*inspect.signature(one).parameters]


def bits(tree):
    return [
        (type(x).__module__.split(".")[0], str(x.dtype), np.asarray(x).tobytes())
        if hasattr(x, "dtype")
        else x
        for x in jax.tree.leaves(tree)
    ]


# --- policies ---

TEXTS = [
    "float16",
    "half",
    "full",
    "bf16",
    "c=f16",
    "p=f16,c=f16",
    "p=f16,c=bf16",
    "params=float32,compute=float16,output=float32",
    "c=half,o=full",
    "o=f16",
    "p=bf16",
    "p=f64,c=f32",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_jmps(text):
    mine, peer = ours.get_policy(text), theirs.get_policy(text)
    for name in ("param_dtype", "compute_dtype", "output_dtype"):
        assert getattr(mine, name) == getattr(peer, name)
        assert isinstance(getattr(mine, name), type(F16))
    assert str(mine) == str(peer)
    assert ours.get_policy(str(mine)) == mine
    assert theirs.get_policy(str(mine)) == peer
    # And the house's own grammar reads what it writes.
    policy = precis.get_policy(str(mine))
    assert policy.param.dtype == mine.param_dtype
    assert policy.output.dtype == mine.output_dtype


SPECIAL = np.float32(
    [0, -0.0, 1, 1 / 3, 65504, 65520, 1e30, -1e-8, 2**-24, 2**-25, np.inf, -np.inf, np.nan]
)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("text", ["p=f32,c=f16,o=bf16", "p=bf16,c=f32,o=f16"])
def test_casts_are_jmps(text):
    rng = np.random.default_rng(0)
    tree = {
        "w": jnp.asarray(np.concatenate([SPECIAL, np.float32(rng.standard_normal(500))])),
        "numpy": SPECIAL.astype(np.float16),
        "half": [jnp.asarray(SPECIAL, F16), jnp.asarray(SPECIAL, BF16)],
        "step": jnp.int32(7),
        "mask": np.array([True, False]),
        "number": 0.1,
        "name": "layer",
        "nothing": None,
        "scalar": np.float32(0.1),
    }
    mine, peer = ours.get_policy(text), theirs.get_policy(text)
    for verb in ("cast_to_param", "cast_to_compute", "cast_to_output"):
        assert bits(getattr(mine, verb)(tree)) == bits(getattr(peer, verb)(tree))
    assert bits(ours.cast_to_half(tree)) == bits(theirs.cast_to_half(tree))
    assert bits(ours.cast_to_full(tree)) == bits(theirs.cast_to_full(tree))


def test_a_float8_policy_casts_storage():
    mine, peer = (jmp.Policy(F32, jnp.float8_e4m3fn, F32) for jmp in (ours, theirs))
    x = jnp.float32([0.3, -7.7, 448, 2**-9])
    assert bits(mine.cast_to_compute(x)) == bits(peer.cast_to_compute(x))


@pytest.mark.world
def test_a_cast_is_differentiated_and_compiled():
    policy = ours.get_policy("c=f16")
    value, grad = jax.jit(jax.value_and_grad(lambda x: policy.cast_to_compute(x)[0] * 3.0))(
        jnp.float32([0.1, 2.0])
    )
    assert (value.dtype, grad.dtype) == (F16, F32)
    assert grad.tolist() == [3.0, 0.0]


def test_equal_policies_have_equal_hashes():
    spelled = [("float16",) * 3, (np.dtype(np.float16),) * 3, (np.float16, F16, "f2")]
    mine = [ours.Policy(*dtypes) for dtypes in spelled]
    assert len(set(mine)) == 1
    assert str(mine[1]) == "p=f16,c=f16,o=f16"
    peers = [theirs.Policy(*dtypes) for dtypes in spelled[1:]]
    assert peers[0] == peers[1]
    assert hash(peers[0]) != hash(peers[1])
    with pytest.raises(KeyError):
        str(peers[0])


def test_a_dtype_can_be_called_and_replaced():
    policy = ours.get_policy("c=f16").with_output_dtype(np.dtype(np.float32))
    assert policy.output_dtype(0.5).dtype == F32
    assert policy == ours.Policy(F32, F16, F32)
    assert ours.half_dtype() is theirs.half_dtype()


def test_spaces_and_other_dtypes_are_read():
    assert ours.get_policy("c=half, o=full") == ours.Policy(F32, F16, F32)
    assert ours.get_policy("mixed_bf16") == ours.Policy(F32, BF16, F32)
    assert ours.get_policy("bf16") == ours.get_policy("bfloat16")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c=float17", "no number format is called 'float17'; did you mean"),
        ("d=f16", "no role is called 'd'"),
        ("c=f16,c=bf16", "given twice"),
        ("c=f16,g=bf16", "jmp has params, compute and output, and no grad; precis.get_policy"),
        ("c=tf32,o=f32", "tf32 is no dtype to compute in; precis.get_policy"),
        ("c=e4m3fn,o=f32", "e4m3fn is no dtype to compute in"),
        ("int8", "an integer needs a scale"),
        ("f32; head/**: c=f32", "rules by path"),
    ],
)
def test_bad_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        ours.get_policy(text)


def test_an_integer_dtype_is_refused():
    with pytest.raises(ValueError, match="compute_dtype: a floating-point dtype is wanted"):
        ours.Policy(F32, jnp.int8, F32)


# --- loss scales ---


def walked(scale, steps, *, compiled):
    """(loss_scale, counter) after each step."""
    adjust = jax.jit(lambda scale, finite: scale.adjust(finite)) if compiled else None
    seen = []
    for finite in steps:
        finite = jnp.bool_(finite)
        scale = adjust(scale, finite) if adjust else scale.adjust(finite)
        seen.append((float(scale.loss_scale), int(scale.counter)))
    return seen


@pytest.mark.parametrize(
    ("value", "period", "factor", "least"),
    [(2.0**15, 3, 2, 1.0), (8.0, 2, 4, 0.5), (3.0, 2, 2, 3.0), (1.0, 5, 16, 2.0**-20)],
)
@pytest.mark.parametrize("good", [0.4, 0.9])
def test_the_schedule_is_jmps(value, period, factor, least, good):
    steps = np.random.default_rng(period).random(80) < good
    fields = {"period": period, "factor": factor, "min_loss_scale": F32(least)}
    # jmp forgets its smallest scale when it is compiled, so it runs as it is.
    wanted = walked(theirs.DynamicLossScale(F32(value), **fields), steps, compiled=False)
    mine = ours.DynamicLossScale(F32(value), **fields)
    assert walked(mine, steps, compiled=True) == wanted
    assert walked(mine, steps[:9], compiled=False) == wanted[:9]


def test_a_factor_that_is_no_power_of_two_is_an_ulp_apart():
    # Multiplied by 1/3 instead of divided by 3: two roundings for one, in each of 20 steps.
    steps = [False] * 10 + [True] * 10
    fields = {"period": 1, "factor": 3, "min_loss_scale": F32(2.0**-100)}
    wanted = walked(theirs.DynamicLossScale(F32(1e4), **fields), steps, compiled=False)
    found = walked(ours.DynamicLossScale(F32(1e4), **fields), steps, compiled=True)
    np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=20 * 2.0**-23)


@pytest.mark.parametrize("make", ["NoOpLossScale", "StaticLossScale", "DynamicLossScale"])
@pytest.mark.parametrize("dtype", [F16, BF16, F32])
def test_scaling_is_jmps_in_float32(make, dtype):
    tree = {"a": jnp.asarray([0.5, -3.0], dtype), "b": [jnp.asarray(2.0**-14, dtype)]}
    args = () if make == "NoOpLossScale" else (F32(1024.0),)
    mine, peer = getattr(ours, make)(*args), getattr(theirs, make)(*args)
    for verb in ("scale", "unscale"):
        # With a strongly typed float32 scale, jax's promotion takes jmp to float32 too.
        assert bits(getattr(mine, verb)(tree)) == bits(getattr(peer, verb)(tree))
    assert mine.loss_scale == peer.loss_scale


@pytest.mark.world
def test_a_float16_loss_does_not_overflow_by_being_scaled():
    loss = F16(4.0)
    for mine, peer in [
        (ours.StaticLossScale(2**15), theirs.StaticLossScale(2**15)),
        (ours.DynamicLossScale(F16(2**15)), theirs.DynamicLossScale(F16(2**15))),
    ]:
        assert float(jax.jit(lambda s, x: s.scale(x))(mine, loss)) == 2.0**17
        assert np.isinf(peer.scale(loss))
        # And a small gradient is not lost by being unscaled.
        assert float(mine.unscale(F16(2.0**-14))) == 2.0**-29
        assert float(peer.unscale(F16(2.0**-14))) == 0.0


def test_integers_keys_and_python_numbers():
    tree = {"count": jnp.int32(3), "loss": 0.25}
    scaled = ours.StaticLossScale(8).scale(tree)
    assert (scaled["count"].dtype, int(scaled["count"]), float(scaled["loss"])) == (jnp.int32, 3, 2)
    assert bool(ours.all_finite({"key": jax.random.key(0), "n": 3, "x": 1.0, "z": 1j}))
    assert not bool(ours.all_finite({"n": 3, "z": jnp.complex64(complex(0, np.inf))}))


def test_the_example_of_jmps_readme_runs():
    """A float16 model with `DynamicLossScale(half_dtype()(2 ** 15))`, where jmp raises."""
    with pytest.raises(TypeError, match="same dtypes"):
        theirs.DynamicLossScale(theirs.half_dtype()(2**15)).adjust(TRUE)

    policy = ours.get_policy("params=float32,compute=float16,output=float32")
    optimizer = optax.sgd(0.1)

    def loss_fn(params, loss_scale, x):
        params, x = policy.cast_to_compute((params, x))
        return loss_scale.scale(policy.cast_to_output(jnp.mean((x * params["w"] - 1) ** 2)))

    @jax.jit
    def train_step(params, opt_state, loss_scale, x):
        grads = loss_scale.unscale(jax.grad(loss_fn)(params, loss_scale, x))
        grads_finite = ours.all_finite(grads)
        loss_scale = loss_scale.adjust(grads_finite)
        updates, new_state = optimizer.update(grads, opt_state)
        new = (optax.apply_updates(params, updates), new_state)
        params, opt_state = ours.select_tree(grads_finite, new, (params, opt_state))
        return params, opt_state, loss_scale

    params, loss_scale = {"w": jnp.zeros(3)}, ours.DynamicLossScale(ours.half_dtype()(2**15))
    opt_state = optimizer.init(params)
    for step in range(60):
        x = jnp.full(3, np.nan if step == 30 else 1.0)
        params, opt_state, loss_scale = train_step(params, opt_state, loss_scale, x)
    np.testing.assert_allclose(params["w"], 1.0, atol=0.05)
    assert (float(loss_scale.loss_scale), int(loss_scale.counter)) == (2.0**14, 29)


@pytest.mark.world
def test_the_smallest_scale_survives_jit():
    lost = theirs.DynamicLossScale(F32(8.0), min_loss_scale=F32(4.0))
    kept = ours.DynamicLossScale(F32(8.0), min_loss_scale=F32(4.0))
    assert walked(lost, [False] * 4, compiled=True)[-1] == (1.0, 0)
    assert walked(kept, [False] * 4, compiled=True)[-1] == (4.0, 0)


def test_it_comes_back_from_both_ends():
    down, up = [False] * 200, [True] * 400
    mine = ours.DynamicLossScale(F32(1.0), period=1, min_loss_scale=F32(0.0))
    assert walked(mine, down, compiled=True)[-1] == (2.0**-126, 0)
    assert walked(mine, down + up, compiled=True)[-1] == (2.0**126, 0)
    peer = theirs.DynamicLossScale(F32(1.0), period=1, min_loss_scale=F32(0.0))
    assert walked(peer, down + up[:10], compiled=False)[-1] == (0.0, 0)


def test_they_are_pytrees():
    scale = ours.DynamicLossScale(8.0, period=7, min_loss_scale=0.5)
    assert jax.tree.map(lambda x: x, scale) == scale
    types = [(x.dtype.name, x.shape, x.weak_type) for x in jax.tree.leaves(scale)]
    assert types == [("float32", (), False), ("int32", (), False), ("float32", (), False)]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(scale)]
    assert paths == [".loss_scale", ".counter", ".min_loss_scale"]
    many = jax.tree.map(lambda x: jnp.stack([x, x]), scale)
    after = jax.vmap(lambda scale, finite: scale.adjust(finite))(many, jnp.array([True, False]))
    assert (after.loss_scale.tolist(), after.counter.tolist(), after.period) == ([8, 4], [1, 0], 7)
    assert jax.tree.leaves(ours.NoOpLossScale()) == []
    assert jax.tree.leaves(ours.StaticLossScale(4)) == [4.0]
    assert jax.tree.map(lambda x: x, ours.NoOpLossScale()) == ours.NoOpLossScale()
    traces = []
    unscale = jax.jit(lambda scale, x: traces.append(1) or scale.unscale(x))
    assert [float(unscale(ours.StaticLossScale(s), F32(8))) for s in (2, 4)] == [4.0, 2.0]
    assert traces == [1]


def test_trees_are_selected_bit_for_bit():
    a = {"w": jnp.float32([-0.0, np.nan, 1e-40]), "n": jnp.int32(1)}
    b = {"w": jnp.float32([0.0, 2.0, 3.0]), "n": jnp.int32(2)}
    for pred, wanted in [(TRUE, a), (FALSE, b)]:
        assert bits(jax.jit(ours.select_tree)(pred, a, b)) == bits(wanted)
        assert bits(ours.select_tree(pred, a, b)) == bits(theirs.select_tree(pred, a, b))
    assert bits(ours.select_tree(True, a, b)) == bits(a)
    with pytest.raises(TypeError):
        ours.select_tree(TRUE, F32(1.0), F16(1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ours.StaticLossScale(0.0), "a loss scale lives between"),
        (lambda: ours.StaticLossScale(jnp.ones(2)), "made of scalars"),
        (lambda: ours.DynamicLossScale(0.5), "value must lie between min=1.0"),
        (lambda: ours.DynamicLossScale(8.0, factor=0.5), "growth_factor must be at least 1"),
        (lambda: ours.DynamicLossScale(8.0, period=0), "growth_interval must be a whole number"),
        (lambda: ours.DynamicLossScale(8.0).adjust(jnp.ones(2, bool)), "boolean scalar, got bool"),
        (lambda: ours.select_tree(F32(1.0), 1, 2), r"boolean scalar, got float32\[\]"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
