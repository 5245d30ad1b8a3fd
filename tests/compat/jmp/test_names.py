"""jmp's own tests run on the drop-in, and all of its names are there."""

import inspect
import pathlib
import types
import unittest

import jmp as theirs
import pytest

from precis.compat import jmp as ours

# jmp's own tests, file by file: how many there are, and which do not pass here, and why.
SUITES = {
    "loss_scale": (
        25,
        {
            # A number of another type is turned into float32 instead of warned of.
            "test_dynamic_loss_scale_raises_type_error_on_int_loss_scale",
            "test_dynamic_loss_scale_raises_type_error_on_int_min_loss_scale",
            # The smallest scale is a leaf too, so that jit does not lose it.
            "test_dynamic_loss_scale_tree",
            # A ValueError that says what came, and no assertion.
            "test_select_tree_rejects_non_scalar",
            # A static scale of 0 is refused: it cannot be taken off again.
            "test_static_empty_trees_StaticLossScale",
        },
    ),
    "policy": (
        72,
        {
            # Other words for an unknown dtype.
            "test_get_policy_almost_dtype",
            # They look into a private table; `test_policy` asks the same without it.
            *(f"test_str{number}" for number in range(5)),
        },
    ),
}


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("file", SUITES)
def test_jmps_own_tests_pass(file):
    count, different = SUITES[file]
    path = pathlib.Path(theirs.__file__).parent / "_src" / f"{file}_test.py"
    its_import = f"from jmp._src import {file} as jmp"
    source = path.read_text()
    assert its_import in source
    module = types.ModuleType(path.stem)
    exec(source.replace(its_import, "from precis.compat import jmp"), module.__dict__)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    failed = (test.id().split()[0] for test, _ in result.failures + result.errors)
    assert {name.split(".")[-1] for name in failed} == different
    assert result.testsRun == count


def test_every_name_field_and_parameter_of_jmp_is_there():
    assert set(ours.__all__) == set(theirs.__all__)
    for name in set(theirs.__all__) - {"LossScale"}:
        wanted, found = getattr(theirs, name), getattr(ours, name)
        parts = [(wanted, found)]
        if inspect.isclass(wanted):
            verbs = [verb for verb, fn in vars(wanted).items() if inspect.isfunction(fn)]
            verbs = [verb for verb in verbs if not verb.startswith(("_", "tree_"))]
            parts += [(getattr(wanted, verb), getattr(found, verb)) for verb in verbs]
        for one, other in parts:
            assert [*inspect.signature(other).parameters] == [*inspect.signature(one).parameters]
