"""What a sweep is: arms × tasks × seeds, as data. A sweep file is these nouns in TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from precis.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A task of a sweep, a `[[task]]`.

    Attributes:
        name: A built-in task (`digits`, `text`), or the path of a Python file that defines
            `task(**options)`, counted from the sweep file's folder.
        model: Which of the task's models; None for its only one.
        steps: Steps of training.
        tolerance: How large a gap matters, in the unit of the task's metric; None leaves it to
            the report, which says so.
        options: What the task is made with.
        recipe: Changes to the sweep's recipe on this task.
        label: Its name within the sweep; by default `name` and `model`.
    """

    name: str
    model: str | None = None
    steps: int
    tolerance: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSpec:
    """What is compared, an `[[arm]]`: a way to train, or a way to quantize what another arm trains.

    An arm that quantizes has `quantize` and `of`, and nothing of what is said of training.

    Attributes:
        name: Its name within the sweep.
        policy: Text of its policy.
        apex: Instead of a policy, one of Apex's levels, `O0` to `O3`, with what it says of the
            recipe.
        recipe: Changes to the recipe.
        steps: Steps of training, where they differ from the task's.
        perturb_ulp: By how many ulps of their dtype the initial parameters are moved.
        quantize: Instead of training: the mode that weights run as, or modes by path, as in
            `w8a8; head/**: f32`; see `precis.quantize_model`.
        of: Name of the arm whose weights, once trained, are quantized.
        calibrate: What quantized weights are scaled by; see `precis.quantize`.
        smooth: How much of large columns of inputs weights take over, as `precis.ptq.smooth`;
            None leaves inputs as they are.
        reason: Why the sweep has it.
    """

    name: str
    policy: str = ""
    apex: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    perturb_ulp: int = 0
    quantize: str = ""
    of: str = ""
    calibrate: str = "absmax"
    smooth: float | None = None
    reason: str = ""

    @property
    def given(self) -> str:
        """What the arm is, as it was written: its policy, or `w8a8 of f32`."""
        mode = f"({self.quantize})" if ";" in self.quantize else self.quantize
        return f"{mode} of {self.of}" if self.quantize else self.policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A question: every arm on every task with every seed.

    Attributes:
        name: Its name, and by default its folder in `runs/`.
        task: The tasks.
        arm: The arms.
        seeds: A seed decides initialization and batches, for all arms alike.
        baseline: Name of the arm that the others are compared with; by default the first.
        noise_floor: Name of the baseline's perturbed twin; by default the first arm with
            `perturb_ulp` and the baseline's policy and recipe.
        recipe: How to train.
        grid: Values to try, by dotted key (`recipe.learning_rate`, `policy.x`, `steps`): each
            arm is multiplied by every combination. `quantize` adds an arm for each of its values
            to each arm that is trained.
        log_every: Steps between rows of metrics.
        eval_every: Steps between evaluations; 0 evaluates at the end only.
        checkpoint_every: Steps between checkpoints; 0 saves at the end only.
    """

    name: str
    task: tuple[TaskSpec, ...]
    arm: tuple[ArmSpec, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str = ""
    noise_floor: str = ""
    recipe: Recipe = field(default_factory=Recipe)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    log_every: int = 10
    eval_every: int = 0
    checkpoint_every: int = 100
