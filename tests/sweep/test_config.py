from pathlib import Path

import pytest

from precis.sweep.config import load_sweep, merge_recipe
from precis.sweep.spec import Sweep
from precis.train.recipe import Recipe

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

GOOD = """
seeds = [0, 1]
[recipe]
learning_rate = 1e-2
[[task]]
name = "digits"
steps = 5
[[arm]]
name = "f32"
policy = "f32"
recipe = { clip = 1.0 }
[[arm]]
name = "low"
policy = "bf16"
[grid]
recipe.learning_rate = [1e-3, 1e-2]
"policy.s" = ["f32", "bf16"]
"""


def write(folder, text, name="sweep.toml"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_becomes_a_sweep(tmp_path):
    sweep = load_sweep(write(tmp_path, GOOD, "lr.toml"))
    assert sweep.name == "lr"
    assert sweep.seeds == (0, 1)
    assert sweep.recipe == Recipe(learning_rate=1e-2)
    assert [arm.name for arm in sweep.arm] == ["f32", "low"]
    assert sweep.grid == {"recipe.learning_rate": (1e-3, 1e-2), "policy.s": ("f32", "bf16")}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = [0, 1]", "sedes = [0, 1]", "sweep.toml: unknown key 'sedes'; did you mean 'seed"),
        ("learning_rate = 1e-2", "learnin_rate = 1", "recipe: unknown key 'learnin_rate'; did you"),
        ("steps = 5", "step = 5", "task 'digits': unknown key 'step'; did you mean 'steps'"),
        ('policy = "bf16"', 'polcy = "bf16"', "arm 'low': unknown key 'polcy'; did you mean 'poli"),
        ("{ clip = 1.0 }", "{ clap = 1.0 }", "arm 'f32': recipe: unknown key 'clap'; did you mean"),
        ("steps = 5", 'steps = "5"', "task.0.steps: input should be a valid integer"),
        ("steps = 5", "steps = 5.5", "task.0.steps: input should be a valid integer"),
        ("steps = 5", "", "task.0.steps: field required"),
        ("1e-2\n[[task", '"fast"\n[[task', "recipe.learning_rate: input should be a valid number"),
        ("seeds = [0, 1]", "seeds = 3", "seeds: input should be a valid"),
        ("[[task]]", "[task]", "task is a list of tables, each headed [[task]]"),
        ("seeds = [0, 1]", "seeds = [0, 1", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, said):
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"sweep\.toml") as raised:
        load_sweep(path)
    assert said in str(raised.value)


def test_a_missing_file_names_a_near_one(tmp_path):
    write(tmp_path, GOOD, "quickstart.toml")
    with pytest.raises(ValueError, match=r"no such sweep file; did you mean .*quickstart\.toml"):
        load_sweep(tmp_path / "quikstart.toml")


def test_settings_change_keys(tmp_path):
    settings = [
        "seeds=[7]",
        "recipe.learning_rate=1",
        "arm.low.policy=tf32",
        "task.*.steps=9",
    ]
    sweep = load_sweep(write(tmp_path, GOOD), settings)
    assert sweep.seeds == (7,)
    assert sweep.recipe.learning_rate == 1.0
    assert [arm.policy for arm in sweep.arm] == ["f32", "tf32"]
    assert sweep.task[0].steps == 9


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seeds", "wants KEY=VALUE"),
        ("arm.lo.policy=f32", "nothing is called 'lo'; did you mean 'low'"),
        ("seeds.x=1", "is a value, not a table"),
        ("recipe.lerning_rate=1", "unknown key 'lerning_rate'"),
    ],
)
def test_settings_are_as_strict(tmp_path, setting, said):
    with pytest.raises(ValueError, match=said):
        load_sweep(write(tmp_path, GOOD), [setting])


def test_a_python_file_defines_a_sweep(tmp_path):
    source = """
from precis.sweep import ArmSpec, Sweep, TaskSpec
def sweep():
    arms = tuple(ArmSpec(name=name, policy=name) for name in ("f32", "bf16"))
    return Sweep(name="made", task=(TaskSpec(name="digits", steps=3),), arm=arms)
"""
    sweep = load_sweep(write(tmp_path, source, "made.py"))
    assert isinstance(sweep, Sweep)
    assert sweep.name == "made"
    with pytest.raises(ValueError, match="a function sweep"):
        load_sweep(write(tmp_path, "x = 1", "empty.py"))


def test_recipes_merge_in_order():
    merged = merge_recipe(Recipe(clip=2.0), {"clip": 1.0}, {"learning_rate": 1}, where="here")
    assert merged == Recipe(clip=1.0, learning_rate=1.0)
    with pytest.raises(ValueError, match="here: recipe: momentum"):
        merge_recipe(Recipe(), {"optimizer": "sgd", "momentum": 2.0}, where="here")


@pytest.mark.parametrize(
    "path", sorted(EXPERIMENTS.rglob("*.toml")), ids=lambda path: path.parent.name
)
def test_our_own_files_are_good(path):
    sweep = load_sweep(path)
    assert len(sweep.arm) >= 5
    assert sweep.name in (path.stem, path.parent.name)
    assert all(task.tolerance is not None for task in sweep.task)
