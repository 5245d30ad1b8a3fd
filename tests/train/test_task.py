"""Finding a task by its name."""

import subprocess
import sys

import pytest

import precis.train.task
from precis.train.task import BUILT_IN, load_task, task_source
from tests.train.tasks.contract import check_task, train

EXAMPLE = "experiments/tasks/breast_cancer.py"
ROOT = precis.train.task.Path(precis.train.task.__file__).parents[2]


def test_a_task_of_one_s_own_is_a_file():
    path = str(ROOT / EXAMPLE)
    check_task(load_task(path), load_task(path))


def test_the_example_learns():
    _, metrics = train(load_task(str(ROOT / EXAMPLE)), steps=60, learning_rate=3e-3)
    # 0.63 of the patients are benign; a linear classifier has about 0.97 right.
    assert metrics["accuracy"] > 0.9


def test_options_reach_the_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def task(model='a', *, size=1): return (model, size)")
    assert load_task(str(file)) == ("a", 1)
    assert load_task(str(file), "b", size=2) == ("b", 2)
    with pytest.raises(ValueError, match=r"no option 'siez'; did you mean 'size'\?"):
        load_task(str(file), siez=2)


def test_a_dataclass_in_the_file_finds_its_module(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n"
        "    size: int = 3\n"
        "def task(): return Mine()\n"
    )
    assert load_task(str(file)).size == 3


def test_options_reach_the_built_in():
    assert load_task("digits", batch_size=7).batch(0, 0)["label"].shape == (7,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_task("digit"), r"no task 'digit'; did you mean 'digits'\?.*\.py file"),
        (lambda: load_task("digits", "cmn"), r"no model 'cmn'; did you mean 'cnn'\?"),
        (lambda: load_task("digits", batch=3), r"no option 'batch'; did you mean 'batch_size'\?"),
        (lambda: load_task("text", "mlp"), r"no model 'mlp'; choose from decoder"),
        (lambda: load_task("text", dim=12, heads=5), r"multiple of 2 · heads.*dim=12, heads=5"),
        (lambda: load_task("none.py"), "no task file none.py"),
        (lambda: task_source("none.py"), "no task file none.py"),
        (lambda: task_source("digit"), r"no task 'digit'; did you mean 'digits'\?"),
    ],
)
def test_errors_name_the_nearest(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_file_without_a_task_says_so(tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("")
    with pytest.raises(ValueError, match=r"must define task\(\*\*options\)"):
        load_task(str(file))


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_source_of_a_built_in_defines_it(name):
    assert f"def {name}(".encode() in task_source(name)


def test_the_source_of_a_file_is_the_file():
    assert task_source(str(ROOT / EXAMPLE)) == (ROOT / EXAMPLE).read_bytes()


def test_sources_are_read_without_jax():
    program = (
        "import sys; from precis.train.task import task_source; task_source('text'); "
        "sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
