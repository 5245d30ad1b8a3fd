"""`PolicyRules`: a policy, and what is different at some paths of the model."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from precis.formats import Format
from precis.policy.grammar import get_policy, read_bare, read_roles, resolve
from precis.policy.policy import KEYS, Policy, Role
from precis.types import matches

# What a rule may set: formats of one parameter, or of the matrix ops that it flows into.
_LOCAL = ("p", "c", "k", "g", "a", "w")
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

        With `head/**: c=f32`, k and g are f32 there too unless they were given; roles that no
        rule may set keep the format that they have everywhere.
        """
        return _at(self, path) if self.rules else self.base

    def rule_at(self, path: str) -> str | None:
        """The pattern of the last rule that matches a path; None if none does."""
        rank = self.rank(path)
        return None if rank < 0 else self.rules[rank].pattern

    def rank(self, path: str) -> int:
        """How far down the last rule stands that matches a path; -1 if none does."""
        numbered = enumerate(self.rules)
        return max((i for i, rule in numbered if matches(rule.pattern, path)), default=-1)

    def roles(self) -> list[Role]:
        """The roles of `base`."""
        return self.base.roles()

    @property
    def is_emulated(self) -> bool:
        """Whether some format, at whatever path, rides on a wider carrier."""
        return any(policy.is_emulated for policy in self._policies())

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether gradients can underflow, at whatever path."""
        return any(policy.needs_loss_scaling for policy in self._policies())

    def _policies(self) -> Iterable[Policy]:
        return (self.base, *(_with(self.base, (rule,)) for rule in self.rules))


def policy_rules(base: Policy | str, rules: Iterable[tuple[str, str]] = ()) -> PolicyRules:
    """`base`, with formats of its own for the paths that each pattern matches.

    >>> rules = policy_rules("mixed_bf16", [("head/**", "c=f32"), ("blocks/*/mlp/**", "e4m3fn")])
    >>> print(rules.at("head/kernel").kernel, rules.at("blocks/2/mlp/up").compute)
    f32 e4m3fn
    >>> print(rules)
    p=f32,c=bf16,o=f32; head/**: c=f32; blocks/*/mlp/**: c=e4m3fn

    Args:
        base: A policy or its text.
        rules: Pairs of a path pattern and the roles that it sets: `c=f32,k=bf16`, or one format,
            which then sets c. A rule may set p, c, k, g, a and w.

    Raises:
        ValueError: Bad text, a role that is the same at all paths, or formats that cannot work
            together.
    """
    made = PolicyRules(get_policy(base), tuple(_rule(*pair) for pair in rules))
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
    if isinstance(text, Policy) or not isinstance(text, str):
        return PolicyRules(get_policy(text))
    base, *rest = text.split(";")
    pairs = []
    for part in filter(str.strip, rest):
        # Colons after the first belong to formats: `e2m1@block16:e4m3fn`.
        pattern, colon, formats = part.partition(":")
        if not colon:
            raise ValueError(f"{text!r}: a rule is wanted, as in 'head/**: c=f32', got {part!r}")
        pairs.append((pattern, formats))
    return policy_rules(base, pairs)


def _rule(pattern: str, text: str) -> Rule:
    pattern = pattern.strip()
    if not pattern:
        raise ValueError(f"rule {text!r} has no pattern: 'head/**: {text.strip()}' for example")
    try:
        given = read_roles(text) if "=" in text else {"c": read_bare(text)}
    except ValueError as error:
        raise ValueError(f"rule {pattern!r}: {error}") from None
    for key in given:
        if key in _GLOBAL:
            raise ValueError(
                f"rule {pattern!r}: {key} is the same at all paths, since {_GLOBAL[key]}; set it "
                f"in the policy itself; a rule may set {', '.join(_LOCAL)}"
            )
    return Rule(pattern, tuple((key, given[key]) for key in KEYS if key in given))


@functools.lru_cache(maxsize=4096)
def _at(rules: PolicyRules, path: str) -> Policy:
    return _with(rules.base, tuple(r for r in rules.rules if matches(r.pattern, path)))


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
