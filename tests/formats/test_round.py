"""round_to against ml_dtypes, and against exact comparisons where ml_dtypes is no oracle."""

import math
from fractions import Fraction
from functools import cache, partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from precis.formats import FloatFormat, Rounded, parse, round_to
from precis.formats.values import round_values
from tests.formats import oracle
from tests.formats.oracle import differing, enable_x64

# What both have. ml_dtypes converts from float32 with one rounding (from float64 with two).
TWINS = {
    "f16": np.float16,
    "e5m10": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e8m7": ml_dtypes.bfloat16,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}
# Every kind of special codes, powers of two alone, a range below float32's, fixed and odd steps.
LISTED = [
    *("f16", "bf16", "e4m3fn", "e5m2", "e4m3b11fnuz", "e8m0", "e2m3", "e2m1", "e8m1", "e2m2"),
    *("e8m3fnuz", "e5m0fn", "e5m0fnuz", "e8m0fn", "e2m0fn"),
    *("int8", "uint4", "int8q6", "uint8q3", "nf4", "dynamic8", "udynamic8"),
]
FEW = ["bf16", "e4m3fn", "e8m3fnuz", "int8", "nf4"]
WIDE = ["tf32", "e4m23", "f32"]
MODES = ["nearest_even", "nearest_away", "toward_zero", "up", "down"]
X64 = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def in_rounds(dtype) -> enable_x64:
    return enable_x64(dtype == np.float64)


@cache
def inputs(name: str, dtype=np.float32, count: int = 2**13) -> np.ndarray:
    grid = parse(name)
    drawn = [oracle.draws(count, dtype), oracle.near(grid, count, dtype)]
    return np.concatenate([oracle.boundaries(grid, dtype), *drawn])


def mismatches(name: str, x: np.ndarray) -> int:
    """How many of x: [...] float32 become something else than in ml_dtypes."""
    got = np.asarray(_rounded(x, name))
    with np.errstate(all="ignore"):
        want = x.astype(TWINS[name]).astype(np.float32)
    found = differing(got, want)
    if not parse(name).has_nan:  # its NumPy cast flips NaN's sign; see the test of XLA's
        found = found[~np.isnan(x[found])]
    return len(found)


_rounded = jax.jit(round_to, static_argnums=1)


@partial(jax.jit, static_argnums=1)
def in_every_mode(x, name: str) -> dict[str, jax.Array]:
    """One program, for compiling takes longer than running."""
    return {mode: round_to(x, name, rounding=mode) for mode in MODES}


@pytest.mark.world
@pytest.mark.parametrize("name", TWINS)
def test_equals_ml_dtypes(name):
    assert mismatches(name, inputs(name, count=2**17)) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("name", TWINS)
def test_equals_ml_dtypes_on_a_float32_in_every_64(name):
    low = np.random.default_rng(2)
    for start in range(0, 2**26, 2**24):
        high = np.arange(start, start + 2**24, dtype=np.uint32) << np.uint32(6)
        bits = high | low.integers(0, 64, 2**24, dtype=np.uint32)
        assert mismatches(name, bits.view(np.float32)) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("name", TWINS)
def test_equals_ml_dtypes_on_every_float32(name):
    for start in range(0, 2**32, 2**24):
        bits = np.arange(start, start + 2**24, dtype=np.uint64).astype(np.uint32)
        assert mismatches(name, bits.view(np.float32)) == 0


@pytest.mark.world
@pytest.mark.parametrize("name", TWINS)
def test_all_codes_stay(name):
    width = np.dtype(TWINS[name]).itemsize * 8
    codes = np.arange(2 ** parse(name).bits).astype(f"uint{width}")
    values = codes.view(TWINS[name]).astype(np.float32)
    assert not len(differing(_rounded(values, name), values))


@pytest.mark.parametrize("name", ["e2m1", "e2m3", "e3m2"])
def test_nan_becomes_what_xla_makes_of_it_in_e2m1(name):
    nan = np.uint32([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF]).view(np.float32)
    cast = jax.jit(lambda x: x.astype(ml_dtypes.float4_e2m1fn))
    want = np.asarray(cast(nan)).astype(np.float32)
    assert not len(differing(_rounded(nan, name), want))


@pytest.mark.parametrize("name", ["bf16", "e4m3fn", "e5m2fnuz", "tf32"])
def test_nan_keeps_sign_and_payload(name):
    bits = np.uint32([0x7FC00000, 0xFFC12345, 0x7F800001, 0xFFFFFFFF])
    np.testing.assert_array_equal(_rounded(bits.view(np.float32), name).view(np.uint32), bits)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if name in kept else pytest.mark.nightly)
        for dtype, kept in (
            (np.float32, [*FEW, "f16", "e2m1", "e5m0fn", "uint4"]),
            (np.float64, FEW),
        )
        for name in LISTED
    ],
)
def test_every_mode_equals_exact_comparisons(name, dtype):
    x = inputs(name, dtype)
    with in_rounds(dtype):
        results = in_every_mode(x, name)
    for mode, got in results.items():
        with np.errstate(over="ignore"):
            want = oracle.rounded(x, Rounded(parse(name), mode)).astype(dtype)
        assert not len(differing(got, want)), mode


@pytest.mark.parametrize(
    "text",
    [
        f"{name}({mode},overflow={overflow},subnormals={subnormals})"
        for name, overflows in {
            "e5m2": ["ieee", "saturate", "inf", "nan"],
            "e4m3fn": ["ieee", "saturate", "nan"],
            "e4m3fnuz": ["saturate"],
            "e8m0": ["saturate"],
            "e2m1": ["ieee", "saturate"],
            "int4": ["saturate"],
            "nf4": ["saturate"],
        }.items()
        for overflow in overflows
        for mode, subnormals in (
            ("nearest_even", "flush"),
            ("toward_zero", "keep"),
            ("up", "flush"),
        )
    ],
)
def test_overflow_and_flushing_equal_exact_comparisons(text):
    how = parse(text)
    how = how if isinstance(how, Rounded) else Rounded(how)
    x = inputs(str(how.grid))
    assert not len(differing(_rounded(x, text), np.float32(oracle.rounded(x, how))))


def test_tf32_is_float16_within_its_range():
    x = oracle.draws(2**22)
    x = x[(np.abs(x) >= 2.0**-14) & (np.abs(x) <= 65504)]
    assert not len(differing(_rounded(x, "tf32"), x.astype(np.float16).astype(np.float32)))


# The two kinds of numbers that uniform draws never hit: subnormals, and ties of wide formats.
FLOAT32S = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.builds(
        lambda step, exponent: float(np.float32(step * 2.0**exponent)),
        st.integers(-(2**13), 2**13),
        st.integers(-149, 110),
    ),
)
FLOAT64S = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.builds(
        lambda step, half, exponent: math.ldexp(2 * step + half, exponent),
        st.integers(-(2**24), 2**24),
        st.sampled_from([0, 1, 1 - 2.0**-26, 1 + 2.0**-26]),
        st.integers(-160, 105),
    ),
)


@given(st.lists(FLOAT32S, min_size=1), st.sampled_from(WIDE), st.sampled_from(MODES))
def test_wide_formats_equal_fractions(x, name, mode):
    how = Rounded(parse(name), mode)
    padded = np.resize(np.float32(x), 32)  # one shape, so that each case compiles once
    want = np.float32([oracle.rounded_by_fractions(float(value), how) for value in padded])
    assert not len(differing(round_to(padded, how), want))


@given(st.lists(FLOAT64S, min_size=1), st.sampled_from([*WIDE, "f64"]), st.sampled_from(MODES))
def test_float64_is_rounded_once(x, name, mode):
    how = Rounded(parse(name), mode)
    padded = np.resize(np.float64(x), 32)
    want = np.array([oracle.rounded_by_fractions(float(value), how) for value in padded])
    with enable_x64(True):
        assert not len(differing(round_to(padded, how), want))


def test_double_rounding_would_be_seen():
    x = np.float64(1 + 2.0**-8 + 2.0**-40)  # through float32 it is a tie, to 1
    with enable_x64(True):
        assert float(round_to(x, "bf16")) == 1 + 2.0**-7
        assert float(round_to(np.float32(x).astype(np.float64), "bf16")) == 1.0


@pytest.mark.parametrize("name", [*FEW, "e5m0fn", "e8m0", "udynamic8", *WIDE])
def test_is_idempotent_monotone_and_symmetric(name):
    x = np.sort(inputs(name) if name in LISTED else oracle.draws(2**14))
    grid = parse(name)
    once = {mode: np.asarray(y) for mode, y in in_every_mode(x, name).items()}
    mirrored = in_every_mode(-x, name)
    for mode, y in once.items():
        assert not len(differing(in_every_mode(y, name)[mode], y)), mode
        finite = y[~np.isnan(y) & ~np.isnan(x)]
        assert (np.diff(finite[np.isfinite(finite)]) >= 0).all(), mode
    if isinstance(grid, FloatFormat) and grid.is_signed:
        for mode in ("nearest_even", "nearest_away", "toward_zero"):
            numbers = ~np.isnan(x)
            want = -once[mode] if grid.has_negative_zero else np.float32(0) - once[mode]
            assert not len(differing(mirrored[mode][numbers], want[numbers])), mode


def test_directed_modes_stop_at_max_and_leave_infinity():
    x = np.float32([np.inf, -np.inf, 1e6, -1e6])
    for name, inf in (("e5m2", np.inf), ("e4m3fn", np.nan), ("e2m1", 6.0)):
        top = parse(name).max
        over = inf if name != "e2m1" else top
        got = {mode: np.asarray(round_to(x, name, rounding=mode)) for mode in MODES[2:]}
        np.testing.assert_array_equal(got["toward_zero"], [inf, -inf, top, -top])
        np.testing.assert_array_equal(got["up"], [inf, -inf, over, -top])
        np.testing.assert_array_equal(got["down"], [inf, -inf, top, -over])


def test_subnormal_input_is_read_although_xla_flushes_it():
    assert jnp.float32(1e-40) == 0  # what makes this a trap, on CPU
    tiny = np.uint32([1, 3, 0x00200000, 0x00280000, 0x007FFFFF]).view(np.float32)
    for name in ("bf16", "e8m3fnuz", "tf32", "f32"):
        how = Rounded(parse(name))
        want = [oracle.rounded_by_fractions(float(value), how) for value in tiny]
        assert not len(differing(_rounded(tiny, name), np.float32(want)))
    assert (np.asarray(round_to(tiny, "e2m1", rounding="up")) == 0.5).all()
    assert (np.asarray(round_to(tiny, "int8", rounding="up")) == 1).all()
    assert (np.asarray(round_to(-tiny, "nf4", rounding="down")) < -0.09).all()


@pytest.mark.parametrize(("name", "shift"), [("e4m3fn", 130), ("e4m3fn", -134), ("e2m1", 125)])
def test_a_shifted_grid_is_the_grid_times_a_power_of_two(name, shift):
    how = Rounded(parse(name), overflow="saturate")
    x = np.concatenate([oracle.draws(2**14), inputs(name)])
    shifts = np.array([[shift], [-3], [0], [7]], np.int32)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = oracle.rounded(np.ldexp(x.astype(np.float64), -shifts), how)
        want = np.ldexp(exact, shifts).astype(np.float32)
    got = np.asarray(round_values(jnp.broadcast_to(x, (4, len(x))), how, shift=shifts))
    inside = np.isfinite(want)  # a shifted max may lie beyond float32
    assert not len(differing(got[inside], want[inside]))


# --- stochastic ---


def shares(x, how: Rounded, random: np.ndarray) -> tuple[float, float, float]:
    """The neighbors of x that come out, and how many of the random numbers give the upper one."""
    got = np.asarray(round_values(jnp.full(random.shape, x), how, random=random))
    place = oracle.between(x, how.grid)
    assert np.isin(got, [place.low, place.high]).all()
    return float(place.low), float(place.high), int((got == place.high).sum())


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("bf16", 1 + 12345 / 2**23),
        ("bf16", -(1 + 12345 / 2**23)),
        ("bf16", 1e-40),
        ("f16", 3.1e-6),
        ("f16", -(2.0**-25) * 1.1),
        ("e4m3fn", 0.3),
        ("e4m3fn", 2.0**-10 * 1.3),
        ("e5m0fn", 2.7),
        ("e2m1", 5.9),
        ("e2m1", 0.2501),
        ("int8", -17.123),
        ("int8q6", 0.71),
        ("e8m3fnuz", 1.2e-39),
    ],
)
def test_the_share_of_random_numbers_that_round_up_is_exact(name, x):
    x = np.float32(x)
    how = Rounded(parse(name), "stochastic")
    # A float32 has 24 bits, and no more are cut off unless x is below half the smallest step.
    low, high, ups = shares(x, how, np.arange(2**24, dtype=np.uint32))
    share = (Fraction(float(x)) - Fraction(low)) / (Fraction(high) - Fraction(low))
    assert Fraction(ups, 2**24) == share
    assert 0 < ups < 2**24


@pytest.mark.parametrize("name", ["e4m3fn", "int8", "e5m0fn"])
@pytest.mark.parametrize("part", [0.4999, -0.07, 2.0**-23, 2.0**-40])
def test_far_below_the_smallest_step_the_share_is_exact_to_the_last_bit(name, part):
    grid = parse(name)
    step = getattr(grid, "smallest_subnormal", 1.0)
    x = np.float32(part * step)
    # Evenly spread over all 32 bits, a number in every 2^8: so the share is known to 2^-24.
    spread = np.arange(2**24, dtype=np.uint32) << np.uint32(8)
    low, high, ups = shares(x, Rounded(grid, "stochastic"), spread)
    share = (float(x) - low) / (high - low)
    assert abs(ups / 2**24 - share) <= 2.0**-24


@pytest.mark.parametrize(("name", "exponent"), [("f32", 0), ("bf16", -130), ("e4m3fn", -9)])
def test_float64_stochastic_shares_are_exact(name, exponent):
    how = Rounded(parse(name), "stochastic")
    grid = how.grid
    step = 2.0 ** (max(exponent, grid.min_exponent) - grid.mantissa_bits)
    x = 2.0 * 2.0**exponent - step * (1 - 12345 / 2**16)
    # Only the 16 highest of the bits that are cut off are set in x: they decide.
    exponent_of_x = math.frexp(x)[1] - 1
    drop = 52 - round(exponent_of_x - math.log2(step))
    random = np.arange(2**16, dtype=np.uint64) << np.uint64(drop - 16)
    with enable_x64(True):
        got = np.asarray(round_values(jnp.full(2**16, x), how, random=random))
    low = math.floor(x / step) * step
    assert set(np.unique(got)) == {low, low + step}
    assert (got != low).sum() == 12345


@pytest.mark.parametrize("x", [0.03, -0.05, -0.999, 0.5, 1e-40, -1e-40])
def test_a_codebook_rounds_up_with_the_share_of_the_gap(x):
    x = np.float32(x)
    spread = np.arange(2**24, dtype=np.uint32) << np.uint32(8)
    low, high, ups = shares(x, Rounded(parse("nf4"), "stochastic"), spread)
    share = (Fraction(float(x)) - Fraction(low)) / (Fraction(high) - Fraction(low))
    # The share is a float32 after three roundings of at most 2^-24 each, and is met by one of
    # 2^24 random numbers: at most 4 * 2^-24 off, and less than one more for their products.
    assert abs(Fraction(ups, 2**24) - share) <= Fraction(5, 2**24)


DRAWS = 2**20
# Hoeffding: a mean of n numbers from [low, high] is farther than t * (high - low) from its
# expectation with a probability of at most 2 exp(-2 n t^2): one in 10^9 here. The keys are fixed.
BIAS = math.sqrt(math.log(2e9) / (2 * DRAWS))


@X64
@pytest.mark.parametrize(
    ("name", "x"),
    [("bf16", 0.1), ("e4m3fn", -0.3), ("e2m1", 0.1), ("e2m1", 1e-3), ("int8", 2.75), ("nf4", 0.6)],
)
def test_stochastic_rounding_is_unbiased(name, x, dtype):
    with in_rounds(dtype):
        got = round_to(jnp.full(DRAWS, x, dtype), f"{name}(stochastic)", key=jax.random.key(0))
        mean = np.mean(np.asarray(got, np.float64))
    place = oracle.between(dtype(x), parse(name))
    assert abs(mean - float(dtype(x))) <= BIAS * (place.high - place.low)


def test_the_mean_over_many_inputs_is_unbiased():
    x = np.random.default_rng(3).normal(size=DRAWS).astype(np.float32)
    got = np.asarray(round_to(x, "e4m3fn", rounding="stochastic", key=jax.random.key(1)))
    place = oracle.between(x, parse("e4m3fn"))
    # Hoeffding with unequal gaps: the root of the sum of their squares takes the place of n gaps.
    error = abs(np.sum(got - x.astype(np.float64)))
    assert error <= math.sqrt(math.log(2e9) / 2 * np.sum((place.high - place.low) ** 2))
    assert abs(np.sum(np.asarray(round_to(x, "e4m3fn", rounding="down")) - x)) > 100 * error


@pytest.mark.parametrize("name", ["bf16", "e8m0", "e4m3fn", "e2m1", "e5m0fn", "int8", "nf4"])
def test_stochastic_rounding_goes_to_a_neighbor_and_keeps_values(name):
    x = inputs(name)
    rounded = jax.jit(lambda x, key: round_to(x, f"{name}(stochastic)", key=key))
    got = np.asarray(rounded(x, jax.random.key(2)))
    ends = [oracle.rounded(x, Rounded(parse(name), mode)) for mode in ("down", "up")]
    at_top = [np.float32(oracle.rounded(x, Rounded(parse(name), "nearest_even", "saturate")))]
    with np.errstate(over="ignore"):
        ends = [np.float32(end) for end in ends]
    fits = [(got == end) | (np.isnan(got) & np.isnan(end)) for end in [*ends, *at_top]]
    assert np.any(fits, axis=0).all()
    values = oracle.ladder(parse(name)).values
    values = np.float32(values[np.abs(values) <= parse(name).max])
    kept = np.asarray(rounded(values, jax.random.key(3)))
    np.testing.assert_array_equal(kept, values)


def test_beyond_max_stochastic_rounding_overflows_by_chance_unless_it_saturates():
    x = jnp.full(DRAWS, 59392.0)  # a quarter of the way from 57344 to 65536
    got = np.asarray(round_to(x, "e5m2(stochastic)", key=jax.random.key(0)))
    assert set(np.unique(got)) == {57344.0, np.inf}
    assert abs(np.mean(np.isinf(got)) - 0.25) <= BIAS
    saturated = round_to(x, "e5m2(stochastic,overflow=saturate)", key=jax.random.key(0))
    assert (saturated == 57344.0).all()


def test_a_key_gives_the_same_bits_again_and_another_others():
    x = jnp.linspace(-3, 3, 1000, dtype=jnp.float32)
    first, again, other = (
        np.asarray(round_to(x, "e2m1(stochastic)", key=jax.random.key(seed))) for seed in (0, 0, 1)
    )
    jitted = jax.jit(lambda x, key: round_to(x, "e2m1(stochastic)", key=key))
    assert not len(differing(first, again))
    assert not len(differing(first, jitted(x, jax.random.key(0))))
    assert len(differing(first, other))


def test_vmapped_keys_round_row_by_row():
    x = jnp.linspace(-3, 3, 40, dtype=jnp.float32).reshape(4, 10)
    keys = jax.random.split(jax.random.key(0), 4)
    got = jax.vmap(lambda x, key: round_to(x, "e2m1(stochastic)", key=key))(x, keys)
    rows = [round_to(row, "e2m1(stochastic)", key=key) for row, key in zip(x, keys, strict=True)]
    assert not len(differing(got, np.stack(rows)))


# --- shapes, carriers and transformations ---


@pytest.mark.world
@pytest.mark.parametrize("name", ["e4m3fn", "int8", "nf4"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5, 1, 3)])
def test_any_shape_eager_as_jitted(shape, name):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    want = np.float32(oracle.rounded(x, Rounded(parse(name))))
    assert not len(differing(round_to(x, name), want))
    assert not len(differing(_rounded(x, name), want))
    drawn = round_to(x, f"{name}(stochastic)", key=jax.random.key(0))
    assert drawn.shape == shape


@pytest.mark.world
@pytest.mark.parametrize("name", ["e4m3fn", "nf4"])
def test_vmap_scan_and_shard_map_change_nothing(name):
    x = jnp.linspace(-1, 1, 12, dtype=jnp.float32).reshape(3, 4)
    want = round_to(x, name)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("data")

    def rounded(x):
        return round_to(x, name)

    sharded = jax.shard_map(rounded, mesh=mesh, in_specs=spec, out_specs=spec)
    assert not len(differing(jax.vmap(rounded)(x), want))
    assert not len(differing(jax.lax.scan(lambda c, x: (c, rounded(x)), None, x)[1], want))
    assert not len(differing(jax.jit(sharded)(x), want))
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: sharded(x).sum()))(x), 1.0)


# XLA has no arrays of 6 bits.
@pytest.mark.parametrize("name", [n for n in TWINS if n not in ("e2m3", "e3m2", "e2m1")])
def test_narrow_input_is_widened(name):
    dtype = np.dtype(TWINS[name])
    codes = np.arange(2 ** parse(name).bits).astype(f"uint{dtype.itemsize * 8}").view(dtype)
    assert not len(differing(_rounded(codes, "f32"), codes.astype(np.float32)))


@pytest.mark.parametrize(
    ("name", "carrier"),
    [
        ("bf16", "bfloat16"),
        ("f16", "float16"),
        ("e4m3fn", "float16"),
        ("e5m3", "bfloat16"),
        ("int8", "bfloat16"),
        ("e8m3fnuz", "bfloat16"),
    ],
)
def test_a_narrower_carrier_holds_the_same_values(name, carrier):
    x = inputs(name)
    got = jax.jit(lambda x: round_to(x, name, carrier=carrier))(x)
    assert got.dtype == carrier
    assert not len(differing(np.asarray(got).astype(np.float32), _rounded(x, name)))


@pytest.mark.parametrize("name", ["bf16", "e8m3fnuz", "f32"])
def test_from_float64_to_a_float32_carrier_subnormals_survive(name):
    x = np.concatenate([inputs("bf16", np.float64), np.float64([1e-40, -1e-45, 1.2e-38])])
    with enable_x64(True):
        wide = np.asarray(round_to(x, name))
        got = np.asarray(jax.jit(lambda x: round_to(x, name, carrier="float32"))(x))
    with np.errstate(over="ignore", invalid="ignore"):
        assert not len(differing(got, wide.astype(np.float32)))


# --- gradients ---


def test_gradient_is_straight_through_everywhere():
    x = jnp.float32([0.3, 1e-30, 1e30, -2.0, jnp.inf, jnp.nan])
    for name in ("f16", "e4m3fn", "int8", "nf4"):
        for gradient in (jax.grad, lambda f: jax.jacfwd(f)):
            grads = gradient(lambda x: round_to(x, name).sum())(x)  # noqa: B023
            np.testing.assert_array_equal(grads, 1.0)


def test_gradient_may_stop_beyond_the_ends():
    x = jnp.float32([-449.0, -448.0, 0.1, 448.0, 448.1, jnp.inf])
    for how in ({}, {"rounding": "stochastic", "key": jax.random.key(0)}):
        masked = jax.grad(lambda x: round_to(x, "e4m3fn", gradient_beyond_max=False, **how).sum())  # noqa: B023
        np.testing.assert_array_equal(masked(x), [0, 1, 1, 1, 0, 0])
    masked = jax.grad(lambda x: round_to(x, "int8", gradient_beyond_max=False).sum())
    x = jnp.float32([-129, -128, 127, 127.5, jnp.nan])
    np.testing.assert_array_equal(masked(x), [0, 1, 1, 0, 0])


def test_cotangent_is_untouched_unless_it_has_a_format_of_its_own():
    back = jnp.float32([1000.123, 1e-30, -1e30, 0.3])  # an e4m3fn cast would make NaN of it

    def pulled(**options):
        return jax.vjp(lambda x: round_to(x, "e4m3fn", **options), jnp.ones(4))[1](back)[0]

    assert not len(differing(pulled(), back))
    assert not len(differing(pulled(cotangent="e5m2"), _rounded(back, "e5m2")))
    saturated = pulled(cotangent="e5m2(toward_zero,overflow=saturate)")
    want = round_to(back, "e5m2", rounding="toward_zero", overflow="saturate")
    assert not len(differing(saturated, want))


def test_cotangent_of_narrow_input_has_its_dtype():
    grads = jax.grad(lambda x: round_to(x, "e4m3fn").sum())(jnp.ones(3, jnp.bfloat16))
    assert grads.dtype == jnp.bfloat16


def test_jvp_goes_through_without_a_cotangent_format_alone():
    one = jnp.ones(2)
    value, tangent = jax.jvp(lambda x: round_to(x, "e2m1"), (one * 0.6,), (one * 0.123,))
    np.testing.assert_array_equal(value, jnp.float32([0.5, 0.5]))
    assert not len(differing(tangent, one * 0.123))
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda x: round_to(x, "e2m1", cotangent="e5m2"), (one,), (one,))


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("bflot16",), ValueError, "did you mean 'bfloat16'"),
        (("e0m0",), ValueError, "2 to 8 exponent bits"),
        ((16,), TypeError, "a format or its name is wanted, got 16"),
        (("mxfp4",), ValueError, "mxfp4 scales them first: use quantize_dequantize"),
        (("f64",), ValueError, "f64 has values that f32 lacks"),
        (("int32",), ValueError, "int32 has values that f32 lacks"),
        (("bf16(stochastic)",), ValueError, "wants a random key: pass key="),
    ],
)
def test_bad_formats_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        round_to(jnp.ones(3), *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": "stochastic"}, "wants a random key"),
        ({"key": 0}, "takes no key"),
        ({"rounding": "nearest"}, "did you mean 'nearest_"),
        ({"overflow": "clip"}, "none of ieee, saturate, inf, nan"),
        ({"subnormals": "flash"}, "did you mean 'flush'"),
        ({"overflow": "inf"}, "e4m3fn has no inf; try 'saturate'"),
        ({"carrier": "int8"}, "a carrier is float16, bfloat16, float32 or float64, got int8"),
        ({"cotangent": "e5m3(stochastic)"}, "stochastic"),
        ({"cotangent": "mxfp4"}, "mxfp4"),
        ({"cotangent": "f64"}, "f64 has values that f32 lacks"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        round_to(jnp.ones(3), "e4m3fn", **options)


def test_a_carrier_too_narrow_is_refused():
    with pytest.raises(ValueError, match="bf16 has values that f16 lacks: take a wider carrier"):
        round_to(jnp.ones(3), "bf16", carrier="float16")


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_only_floating_point_is_rounded(dtype):
    with pytest.raises(TypeError, match=f"floating-point array, got {dtype}"):
        round_to(jnp.ones(3, dtype), "bf16")
