"""`PolicyRules`: a policy, and what is different at some paths of the model."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from precis.formats import Format
from precis.policy.grammar import get_policy, read_bare, read_roles, resolve
from precis.policy.policy import KEYS, Policy, Role
from precis.policy.presets import PRESETS
from precis.types import matches

# What a rule may set: formats of one parameter, or of the matrix ops that it flows into.
_LOCAL = ("p", "c", "k", "g", "gx", "gw", "a", "w")
_GLOBAL = {
    "o": "outputs leave the whole function",
    "r": "gradients travel together",
    "x": "what flows between ops belongs to no path",
    "s": "islands belong to no path",
    "m": "optimizer states are set for the whole model",
    "v": "optimizer states are set for the whole model",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """Formats for the paths that a pattern matches.

    Attributes:
        pattern: `head/**`; `*` stops at `/`, `**` does not.
        formats: Letter of a role and its format, in the order of a policy's text.
    """

    pattern: str
    formats: tuple[tuple[str, Format], ...]

    def __str__(self) -> str:
        return f"{self.pattern}: {','.join(f'{key}={fmt}' for key, fmt in self.formats)}"


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """A policy for a whole model, and rules for some paths in it.

    Paths are those of parameters. A matrix op has the path of the parameter that flows into it;
    one that none reaches directly is `<nearest module upstream>/@dot<k>`, k in program order.

    Attributes:
        base: The policy where no rule says otherwise.
        rules: In order: of two that match a path, the later one wins, role by role.
    """

    base: Policy
    rules: tuple[Rule, ...] = ()

    def __str__(self) -> str:
        return "; ".join(map(str, (self.base, *self.rules)))

    def at(self, path: str) -> Policy:
        """The policy at a path: roles that a rule gives, and those that follow them.

        With `head/**: c=f32`, k and g are f32 there too unless they were given, which a role at
        its default is not; roles that no rule may set keep the format that they have everywhere.

        Raises:
            ValueError: Several rules match, and their formats cannot work together.
        """
        return _at(self, path) if self.rules else self.base

    def rule_at(self, path: str) -> str | None:
        """The pattern of the last rule that matches a path; None if none does."""
        matching = _matching(self, path)
        return matching[-1].pattern if matching else None

    def roles(self) -> list[Role]:
        """The roles of `base`."""
        return self.base.roles()

    @property
    def params(self) -> tuple[Format, ...]:
        """The storage of parameters: p everywhere, then that of each rule which has one."""
        own = (dict(rule.formats).get("p") for rule in self.rules)
        return (self.base.param, *(fmt for fmt in own if fmt is not None))

    @property
    def stores_codes(self) -> bool:
        """Whether some parameters, at whatever path, are stored as codes and scales."""
        return any(policy.stores_codes for policy in self._policies())

    @property
    def is_emulated(self) -> bool:
        """Whether some format, at whatever path, rides on a wider carrier."""
        return any(policy.is_emulated for policy in self._policies())

    @property
    def is_stochastic(self) -> bool:
        """Whether some role, at whatever path, is rounded by chance."""
        return any(policy.is_stochastic for policy in self._policies())

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether gradients can underflow, at whatever path."""
        return any(policy.needs_loss_scaling for policy in self._policies())

    def _policies(self) -> Iterable[Policy]:
        return (self.base, *(_with(self.base, (rule,)) for rule in self.rules))


def policy_rules(
    base: PolicyRules | Policy | str, rules: Iterable[tuple[str, str]] = ()
) -> PolicyRules:
    """`base`, with formats of their own for the paths that each pattern matches.

    >>> rules = policy_rules("mixed_bf16", [("head/**", "c=f32"), ("blocks/*/mlp/**", "e4m3fn")])
    >>> print(rules.at("head/kernel").kernel, rules.at("blocks/2/mlp/up").compute)
    f32 e4m3fn
    >>> print(rules)
    p=f32,c=bf16,o=f32; head/**: c=f32; blocks/*/mlp/**: c=e4m3fn

    Args:
        base: A policy or its text; rules that it has already come first.
        rules: Pairs of a path pattern and the roles that it sets: `c=f32,k=bf16`, or one format,
            which then sets c alone. A rule may set p, c, k, g, gx, gw, a and w.

    Raises:
        ValueError: Bad text, a role that is the same at all paths, or formats that cannot work
            together.
    """
    given = read_policy(base)
    made = PolicyRules(given.base, (*given.rules, *(_rule(*pair) for pair in rules)))
    for rule in made.rules:
        try:
            _with(made.base, (rule,))
        except ValueError as error:
            raise ValueError(f"rule {rule.pattern!r}: {error}") from None
    return made


def read_policy(text: PolicyRules | Policy | str) -> PolicyRules:
    """The rules that `text` describes: a policy, then `; pattern: roles` for each rule.

    `read_policy(str(rules)) == rules`. A policy is rules with none.

    >>> print(read_policy("int8_forward; head/**: bf16").at("head/kernel"))
    p=f32,c=bf16,o=f32

    Raises:
        ValueError: As `policy_rules`.
        TypeError: `text` is neither text nor a policy.
    """
    if isinstance(text, PolicyRules):
        return text
    if not isinstance(text, str) or ";" not in text:
        return PolicyRules(get_policy(text))
    base, *rest = text.split(";")
    if not base.strip():
        raise ValueError(f"{text!r}: a policy is wanted before the rules, as in 'f32{text}'")
    pairs = []
    for part in filter(str.strip, rest):
        # Colons after the first belong to formats: `e2m1@block16:e4m3fn`.
        pattern, colon, formats = part.partition(":")
        if not colon:
            raise ValueError(f"{text!r}: a rule is wanted, as in 'head/**: c=f32', got {part!r}")
        pairs.append((pattern, formats))
    return policy_rules(base, pairs)


def _rule(pattern: str, text: str) -> Rule:
    pattern, text = pattern.strip(), text.strip()
    if not pattern:
        raise ValueError(f"rule {text!r} has no pattern: 'head/**: {text}' for example")
    if set(":;") & set(pattern):
        raise ValueError(f"rule {pattern!r}: a pattern has neither ':' nor ';', which end it")
    try:
        given = read_roles(text) if "=" in text.partition("(")[0] else {"c": _bare(text)}
    except ValueError as error:
        raise ValueError(f"rule {pattern!r}: {error}") from None
    for key in given:
        if key in _GLOBAL:
            raise ValueError(
                f"rule {pattern!r}: {key} is the same at all paths, since {_GLOBAL[key]}; set it "
                f"in the policy itself; a rule may set {', '.join(_LOCAL)}"
            )
    return Rule(pattern, tuple((key, given[key]) for key in KEYS if key in given))


def _bare(text: str) -> Format:
    """The format that a rule consists of: as c, whatever preset has the same name."""
    if not text:
        raise ValueError("it sets nothing; roles are wanted, as in c=f32")
    try:
        return read_bare(text)
    except ValueError:
        if text.lower() not in PRESETS:
            raise
        raise ValueError(
            f"{text} is a policy for a whole model ({PRESETS[text.lower()]}); a rule wants the "
            f"roles that it changes, from {', '.join(_LOCAL)}"
        ) from None


def _matching(rules: PolicyRules, path: str) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules.rules if matches(rule.pattern, path))


@functools.lru_cache(maxsize=4096)
def _at(rules: PolicyRules, path: str) -> Policy:
    try:
        return _with(rules.base, _matching(rules, path))
    except ValueError as error:
        raise ValueError(f"{rules}: at {path!r}, {error}") from None


def _with(base: Policy, rules: tuple[Rule, ...]) -> Policy:
    if not rules:
        return base
    given = {
        role.key: getattr(base, role.name)
        for role in base.roles()
        if role.key in ("p", "c", *_GLOBAL) or role.reason == "given"
    }
    for rule in rules:
        given |= dict(rule.formats)
    return resolve(given)
