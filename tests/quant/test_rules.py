"""Rules by path: which wins, what stays in float, and what an error says."""

import jax.numpy as jnp
import numpy as np
import pytest

from precis.ptq import MODES
from precis.quant import QTensor, QuantRule, quant_rules, quantize

TREE = {
    "embed": {"embedding": jnp.ones((8, 4))},
    "blocks": {
        "norm": {"scale": jnp.ones((3, 4)), "gain": jnp.ones((3, 4))},
        "up": {"kernel": jnp.ones((3, 4, 6)), "bias": jnp.ones((3, 6))},
        "down": {"kernel": jnp.ones((3, 6, 4))},
    },
    "head": {"kernel": jnp.ones((4, 8))},
    "step": jnp.int32(3),
    "temperature": jnp.ones(()),
    "gate": jnp.ones(5),
}


def formats(tree, prefix=""):
    """The format of each leaf that has one, by path."""
    found = {}
    for name, node in tree.items():
        if isinstance(node, QTensor):
            found[prefix + name] = str(node.format)
        elif isinstance(node, dict):
            found |= formats(node, f"{prefix}{name}/")
    return found


KERNELS = {"blocks/up/kernel", "blocks/down/kernel", "head/kernel"}


def test_kernels_alone_are_quantized_by_default():
    assert formats(quantize(TREE, "int8")) == dict.fromkeys(KERNELS, "int8@channel")


@pytest.mark.parametrize(
    "rules",
    [
        [("**", "int8"), ("head/**", "f32"), ("blocks/down/**", "nf4")],
        [("**", "int8"), ("head/**", None), ("blocks/down/*", "nf4")],
        "int8; head/**: f32; blocks/down/kernel: nf4@block64",
        quant_rules("int8; head/**: f32; blocks/down/kernel: nf4"),
    ],
)
def test_the_last_match_wins(rules):
    assert formats(quantize(TREE, rules)) == {
        "blocks/up/kernel": "int8@channel",
        "blocks/down/kernel": "nf4@block64",
    }


def test_a_rule_that_names_a_parameter_quantizes_it_whatever_it_is():
    rules = [("**/embedding", "int8"), ("blocks/up/bias", "int4"), ("gate", "int8")]
    found = quantize(TREE, rules)
    assert formats(found) == {
        "embed/embedding": "int8@channel",
        "blocks/up/bias": "int4@block64",
        "gate": "int8@channel",
    }
    assert found["embed"]["embedding"].scale.shape == (8, 1)
    assert found["gate"].scale.shape == (1,)


def test_what_is_kept_can_be_said():
    found = quantize(TREE, "int8", keep=("blocks/**",))
    assert set(formats(found)) == {"embed/embedding", "head/kernel"}


def test_axes_can_be_given_by_rule():
    found = quantize(TREE, [("head/kernel", "int8", -1), QuantRule("blocks/up/*", None)])
    assert found["head"]["kernel"].scale.shape == (4, 1)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("**", "int8"), ("heads/**", "f32")], r"'heads/\*\*' matches nothing: there are .*"),
        ([("heads/**", "int8")], r"nearest: 'head/\*\*'"),
        ([("head/kernels", "int8")], "nearest: 'head/kernel'"),
        ([("head/*", "f32")], "nothing is quantized: by the last rule .* there are"),
        ([("**", "int8"), ("**", "f32")], "nothing is quantized"),
        ([("**", "int8"), ("embed/**", "int4")], "only what stays in float, .*embed/embedding"),
        ([("blocks/norm/*", "int8")], "that spells out the last part of a path quantizes it"),
        ([], "rules are wanted"),
        ([("", "int8")], "has no pattern"),
        ([("**", "int9000")], r"rule '\*\*': an integer format has 2 to 32 bits"),
        ([("**", "bf16")], "precis.cast_to_param"),
        ([("**", "int8", 5)], r"blocks/down/kernel \[3, 6, 4\]: .*axis 5"),
    ],
)
def test_rules_that_do_nothing_are_errors_that_say_what_there_is(rules, message):
    with pytest.raises(ValueError, match=message):
        quantize(TREE, rules)


@pytest.mark.parametrize("tree", [{}, {"bias": jnp.ones(3)}, {"ids": jnp.ones((2, 2), np.int32)}])
def test_a_tree_with_nothing_to_quantize_is_an_error(tree):
    with pytest.raises(ValueError, match=r"matches nothing: there are no|matches only"):
        quantize(tree, "int8")


def test_a_rule_is_a_pair():
    with pytest.raises(TypeError, match="a rule is"):
        quant_rules([("**",)])
    with pytest.raises(TypeError, match="a rule is"):
        quant_rules([3])


def test_errors_name_the_parameter():
    with pytest.raises(TypeError, match=r"w \[2, 2\]: float32, .* got float64"):
        quantize({"w": np.ones((2, 2))}, "int8")


@pytest.mark.parametrize("name", sorted({*MODES} - {"f32", "nf4"}))
def test_a_mode_is_no_format_and_its_weights_have_one(name):
    with pytest.raises(ValueError, match="quantize_model takes it") as caught:
        quant_rules([("head/**", name)])
    fmt = str(caught.value).split("'")[-2]
    assert quant_rules(fmt)[0].format == MODES[name].weight
