"""The house's promises that import-linter cannot hold: imports at run time, forbidden reaches."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import precis

HOUSE = Path(precis.__file__).parent
FILES = sorted(path.relative_to(HOUSE).as_posix() for path in HOUSE.rglob("*.py"))

# What takes seconds to import, and what only programs that compute need.
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax"}
LIGHT_DOORS = [
    "precis",
    "precis.policy",
    "precis.stats",
    "precis.report",
    "precis.cli",
    "precis.compat",
]

# The rooms that touch disk, time and devices; the rest is told what it needs to know.
MAY_READ_ENVIRONMENT = ("sweep/", "doctor/", "cli/")
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def heavy_after(statement: str) -> set[str]:
    """The heavy libraries that a fresh process holds once it has run `statement`."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return HEAVY & set(ran.stdout.split())


def private_jax(source: str) -> list[int]:
    """Lines of `source` that reach into jax._src, by import, by attribute or by name."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                reached = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names):
                reached = [f"{module}.{alias.name}" for alias in names]
            case ast.Attribute():
                reached = [ast.unparse(node)]
            case ast.Constant(value=str(text)):
                reached = [text]
            case _:
                continue
        # Prose may say `jax._src`; only text that begins with it can be handed to import_module.
        if any(name == "jax._src" or name.startswith("jax._src.") for name in reached):
            lines.append(node.lineno)
    return sorted(set(lines))


def environment_reads(source: str) -> list[int]:
    """Lines of `source` that ask the process' environment, through `os` under any name."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module="os", names=names):
                reached = {alias.name for alias in names}
            case ast.Attribute(attr=name):
                reached = {name}
            case _:
                continue
        if reached & ENVIRONMENT:
            lines.append(node.lineno)
    return sorted(set(lines))


@pytest.mark.parametrize("door", LIGHT_DOORS)
def test_a_light_door_opens_without_jax(door):
    assert heavy_after(f"import {door}") == set()


def test_a_heavy_import_would_be_noticed():
    assert "jax" in heavy_after("import jax")


@pytest.mark.parametrize("file", FILES)
def test_only_public_jax(file):
    assert private_jax((HOUSE / file).read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import jax._src.core",
        "from jax import _src",
        "from jax._src.interpreters import ad",
        "import jax\njax._src.core.Literal",
        "import importlib\nimportlib.import_module('jax._src.core')",
    ],
)
def test_private_jax_would_be_noticed(source):
    assert private_jax(source) == [source.count("\n") + 1]


@pytest.mark.parametrize("file", [f for f in FILES if not f.startswith(MAY_READ_ENVIRONMENT)])
def test_no_environment_reads_in_the_library(file):
    assert environment_reads((HOUSE / file).read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['HOME']",
        "import os as system\nsystem.getenv('HOME')",
        "from os import environ",
        "import os\nos.environ.setdefault('A', 'b')",
    ],
)
def test_an_environment_read_would_be_noticed(source):
    assert environment_reads(source) == [source.count("\n") + 1]
