"""Made-up stores for the report's tests; `sample.py` beside this file writes them."""

import importlib.util
import sys
from pathlib import Path

import pytest

from precis.report import load, summarize


@pytest.fixture(scope="session")
def sample():
    """The module that writes stores."""
    # pytest's importlib mode leaves the tests' folders off the path.
    spec = importlib.util.spec_from_file_location(
        "report_sample", Path(__file__).with_name("sample.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def folder(sample, tmp_path_factory):
    """A store with every kind of arm and end; not to be written to."""
    return sample.write_store(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="session")
def report(folder):
    """The report on it."""
    return summarize(load(folder))


@pytest.fixture(scope="session")
def text(report):
    """Its section on the task `text`."""
    return report.sections[0]


@pytest.fixture(scope="session")
def rows(text):
    """The rows of that task by arm."""
    return {row.arm.name: row for row in text.table.rows}
