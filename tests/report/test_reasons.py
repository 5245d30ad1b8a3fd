"""Each cause is named where the records show it, and nowhere else."""

import pytest

from precis.policy import get_policy
from precis.report import load, summarize


@pytest.fixture(scope="module")
def told(text):
    return {name: " ".join(texts) for name, texts in text.findings}


def test_an_unscaled_f16_that_diverges(told):
    why = told["f16 unscaled"]
    assert "steps 117, 137, in 3 of 3 seeds" in why
    assert "`c=f16` ends at 65504 and no loss scale is in use" in why
    assert "31% of all gradient entries are exactly zero (baseline: 1%)" in why
    # 2**-24, the smallest positive float16.
    assert "6e-08" in why


def test_updates_lost_in_low_precision_parameters(told):
    assert "37% of all updates" in told["bf16"]
    # Below a value just under 2 the spacing is 2**-7, of which half is 1 / 512 of the value.
    assert "`p=bf16` keeps 7 mantissa bits" in told["bf16"]
    assert "1 part in 512" in told["bf16"]
    assert "37%" not in told["mixed_bf16"]


def test_few_mantissa_bits(told):
    # 1 + 2**-3 / 2 lies midway between two values: off by one part in sixteen of 1.
    assert "`c=e5m3` keeps 3 mantissa bits" in told["e5m3"]
    assert "1 part in 16 " in told["e5m3"]
    assert "mantissa bits: each" not in told["bf16"]


def test_where_the_gap_arises(told, rows):
    assert "arises in training: evaluated in f32" in told["bf16"]
    share = rows["e5m3"].gap_f32.mean / rows["e5m3"].gap.mean
    assert f"{share:.0%} of the gap arises in training" in told["e5m3"]


def test_damage_in_evaluation_only(sample, tmp_path):
    made = sample.Made("bf16", "bf16", sample.BF16, eval_harm=0.5, jitter=0.0)
    folder = sample.write_store(tmp_path / "runs", arms=(*sample.ARMS[:2], made))
    ((_, texts),) = summarize(load(folder)).sections[0].findings
    assert "arises in evaluation" in " ".join(texts)


def test_the_rest(told):
    assert told["mixed_f16"] == "Loss scaling skipped 9 steps of 900; the scale ended at 2^15."
    assert "only 50% of its matrix FLOPs" in told["pinned"]
    assert "pinned to float32 by the model" in told["pinned"]
    assert told["crashed"].startswith("Seed 1 raised: ValueError")
    assert "f32" not in told
    assert "f32+ulp" not in told


def test_a_divergence_under_loss_scaling_is_not_blamed_on_its_absence(sample, tmp_path):
    made = sample.Made("f16", "f16", sample.F16, loss_scale=True, diverges={2: 50})
    folder = sample.write_store(tmp_path / "runs", arms=(*sample.ARMS[:2], made))
    for path in folder.glob("*/metrics.jsonl"):
        path.unlink()
    ((_, texts),) = summarize(load(folder)).sections[0].findings
    assert "at step 47, in 1 of 3 seeds, although the loss was scaled" in texts[0]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        # 127 steps on either side; half a step of the largest is one part in 254 of it.
        (
            "int8",
            "`c=int8` has 254 steps for all that shares a scale: each value it rounds is off "
            "by up to 1 part in 254 of the largest among them",
        ),
        (
            "p=f32,c=int8,g=int8(stochastic),x=bf16,o=f32",
            "`g=int8(stochastic)` has 254 steps for all that shares a scale: each value it rounds "
            "is off by up to 1 part in 127 of the largest among them",
        ),
        (
            "nvfp4",
            "`c=nvfp4` keeps 1 mantissa bit: each value it rounds is off by up to 1 part in 4 ",
        ),
    ],
)
def test_what_scaled_formats_cost(sample, tmp_path, policy, said):
    formats = {role.key: role.format for role in get_policy(policy).roles()}
    made = sample.Made("low", policy, formats, harm=0.2)
    folder = sample.write_store(tmp_path / "runs", arms=(*sample.ARMS[:2], made))
    ((_, texts),) = summarize(load(folder)).sections[0].findings
    assert said in " ".join(texts)


def test_a_rule_is_blamed_by_its_pattern(sample, tmp_path):
    rules = (("head/**", "c", "e5m3"), ("body/**", "p", "bf16"))
    made = sample.Made("ruled", "f32; …", sample.BF16, harm=0.2, update_lost=0.4, rules=rules)
    folder = sample.write_store(tmp_path / "runs", arms=(*sample.ARMS[:2], made))
    ((_, texts),) = summarize(load(folder)).sections[0].findings
    assert "`head/**: c=e5m3` keeps 3 mantissa bits" in " ".join(texts)
    assert "`body/**: p=bf16` keeps 7 mantissa bits" in " ".join(texts)
