"""Policies by path: their text, which rule wins, and what is refused."""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precis.policy import cast_to_compute, cast_to_param, get_policy, policy_rules, read_policy
from precis.types import matches

PATTERNS = st.sampled_from(["**", "head/**", "blocks/*/mlp/**", "*/kernel", "a/@dot0"])
FORMATS = st.sampled_from(
    [
        "c=f32",
        "c=bf16,k=e4m3fn",
        "f32",
        "int8",
        "p=bf16",
        "k=e2m1@block16:e4m3fn",
        "g=f16,w=f32",
        "g=int8(stochastic)",
    ]
)
BASES = st.sampled_from(["f32", "mixed_bf16", "fp8_hybrid", "int8", "p=f32,c=e5m3,o=f32,s=bf16"])


@given(BASES, st.lists(st.tuples(PATTERNS, FORMATS), max_size=4))
def test_text_and_back(base, rules):
    made = policy_rules(base, rules)
    assert read_policy(str(made)) == made
    assert (
        read_policy("; ".join([base, *(f"{glob}: {formats}" for glob, formats in rules)])) == made
    )


def test_a_policy_is_rules_with_none():
    policy = get_policy("mixed_bf16")
    rules = read_policy(policy)
    assert (rules.base, rules.rules, rules.at("any/path")) == (policy, (), policy)
    assert str(rules) == str(policy)
    assert read_policy(rules) is rules


def test_the_last_match_wins_role_by_role():
    rules = read_policy("mixed_bf16; **: k=e4m3fn; head/**: c=f32; head/bias: k=f16")
    assert str(rules.at("body/kernel")) == "p=f32,c=bf16,k=e4m3fn,o=f32"
    # k keeps what an earlier rule gave; g was never given, and follows c.
    head = rules.at("head/kernel")
    assert [str(f) for f in (head.compute, head.kernel, head.grad)] == ["f32", "e4m3fn", "f32"]
    assert str(rules.at("head/bias").kernel) == "f16"
    found = [rules.rule_at(path) for path in ("body/kernel", "head/kernel", "head/bias")]
    assert found == ["**", "head/**", "head/bias"]


def test_a_rule_sets_the_cotangent_of_one_product():
    rules = read_policy("int8; head/**: gw=bf16; tail/**: g=f32")
    head, tail = rules.at("head/w"), rules.at("tail/w")
    assert (str(head.grad_for_input), str(head.grad_for_weight)) == ("int8", "bf16")
    assert (str(tail.grad_for_input), str(tail.grad_for_weight)) == ("f32", "f32")
    assert read_policy(str(rules)) == rules


def test_a_rule_stores_some_parameters_as_codes():
    rules = read_policy("mixed_bf16; head/**: p=int8")
    assert (rules.at("head/w").stores_codes, rules.at("body/w").stores_codes) == (True, False)
    assert rules.stores_codes
    assert list(map(str, rules.params)) == ["f32", "int8"]
    assert str(rules.at("head/w").compute) == "bf16"
    assert read_policy(str(rules)) == rules
    assert not read_policy("p=int4").is_emulated  # storage takes the bits that it says


def test_what_is_the_same_everywhere_stays():
    rules = read_policy("mixed_bf16; head/**: c=f32")
    assert rules.at("head/w").activation == rules.base.activation == get_policy("bf16").compute
    assert rules.at("head/w").output == rules.base.output


@pytest.mark.parametrize(
    ("pattern", "path", "is_match"),
    [
        ("head/*", "head/kernel", True),
        ("head/*", "head/a/kernel", False),
        ("head/**", "head/a/kernel", True),
        ("head/**", "header/kernel", False),
        ("**/kernel", "kernel", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("block?/w", "block1/w", True),
        ("a.c/w", "abc/w", False),
        ("kernel", "head/kernel", False),
    ],
)
def test_patterns(pattern, path, is_match):
    assert matches(pattern, path) is is_match


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f32; head/**: o=f32", "o is the same at all paths, since outputs leave the whole"),
        ("f32; head/**: x=bf16", "x is the same at all paths"),
        ("f32; head/**: m=bf16", "optimizer states are set for the whole model"),
        ("f32; head/**", "a rule is wanted, as in 'head/**: c=f32', got ' head/**'"),
        ("f32; : c=f32", "has no pattern"),
        ("f32; head/**: c=bf61", "rule 'head/**': .*bf61"),
        ("f32; head/**: q=f32", "rule 'head/**': .*no role is called 'q'"),
        ("f32; head/**: mixed_bf16", "mixed_bf16 is a policy for a whole model (p=f32,c=bf16"),
        ("f32; head/**:", "rule 'head/**': it sets nothing; roles are wanted, as in c=f32"),
        ("; head/**: c=f32", "a policy is wanted before the rules, as in 'f32; head/**: c=f32'"),
    ],
)
def test_clear_errors(text, message):
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\.\*", ".*")):
        read_policy(text)


@pytest.mark.parametrize("pattern", ["a;b", "a:b"])
def test_patterns_that_would_not_come_back_from_text(pattern):
    with pytest.raises(ValueError, match="neither ':' nor ';'"):
        policy_rules("f32", [(pattern, "c=bf16")])


def test_what_only_rules_together_make_wrong_names_the_path():
    rules = read_policy("f32; **: p=f64; head/**: c=int8")
    with pytest.raises(ValueError, match=r"at 'head/w', c=int8: .* p=f64 is wider"):
        rules.at("head/w")


def test_one_policy_is_not_rules():
    with pytest.raises(ValueError, match="has rules by path, and one policy is wanted"):
        get_policy("f32; head/**: c=bf16")


def test_rules_on_rules():
    more = policy_rules("f32; **: c=bf16", [("head/**", "e4m3fn(overflow=saturate)")])
    assert str(more) == "p=f32,c=f32,o=f32; **: c=bf16; head/**: c=e4m3fn(overflow=saturate)"
    assert read_policy(str(more)) == more


def test_what_was_given_stays_and_what_followed_follows():
    kept = read_policy("c=bf16,k=f16; head/**: c=f32").at("head/w")
    assert (str(kept.kernel), str(kept.grad)) == ("f16", "f32")
    # A policy does not remember that it was given a default, or equal policies would differ.
    followed = read_policy("c=bf16,k=bf16; head/**: c=f32").at("head/w")
    assert str(followed.kernel) == "f32"


def test_what_rules_bring_counts_for_the_whole():
    plain = read_policy("mixed_bf16")
    assert not plain.needs_loss_scaling
    assert not plain.is_emulated
    assert read_policy("mixed_bf16; head/**: c=f16").needs_loss_scaling
    assert read_policy("mixed_bf16; head/**: k=e4m3fn").is_emulated


@jax.tree_util.register_dataclass
@dataclass
class Box:
    """A leaf with a name around it, as nnx's variables and linen's boxes are."""

    value: jax.Array


def test_a_parameter_has_one_path_in_every_library():
    two = {"body": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}
    for tree in (two, {"params": two, "stats": jnp.ones(2)}, jax.tree.map(Box, two)):
        leaves = jax.tree_util.tree_leaves_with_path(cast_to_param("f32; head/w: p=bf16", tree))
        (low,) = (jax.tree_util.keystr(path) for path, x in leaves if x.dtype == jnp.bfloat16)
        assert "head" in low


def test_storage_by_path():
    tree = {"head": {"w": jnp.ones(2)}, "body": {"w": jnp.ones(2), "n": jnp.arange(2)}}
    stored = cast_to_param("f32; body/**: p=bf16", tree)
    assert [str(x.dtype) for x in (stored["head"]["w"], stored["body"]["w"])] == [
        "float32",
        "bfloat16",
    ]
    assert stored["body"]["n"].dtype == tree["body"]["n"].dtype
    low = cast_to_compute("mixed_bf16; head/w: c=f32", tree)
    assert [str(low[k]["w"].dtype) for k in ("head", "body")] == ["float32", "bfloat16"]
    with pytest.raises(ValueError, match="int8"):
        cast_to_compute("mixed_bf16; head/w: c=int8", tree)
