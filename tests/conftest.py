"""What all tests share: the CPU, strict dtype promotion where it is the rule, repeatable draws."""

import os
from pathlib import Path

import hypothesis
import pytest

# The figures that tests compare bit for bit are the CPU's. Set before anything imports jax, and
# through the environment so that the processes which tests start inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Compiling takes longer than any deadline; and what fails in CI must fail again at home.
hypothesis.settings.register_profile(
    "precis", deadline=None, derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("precis")

# Rooms whose arithmetic must never depend on what jax would promote a mixed pair to.
STRICT_ROOMS = frozenset({"formats", "policy", "quant", "ops", "walk"})


def pytest_addoption(parser):
    parser.addoption("--golden", action="store_true", help="write the committed plans anew")


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """In the strict rooms, makes jax raise where two dtypes meet without a cast."""
    room = request.path.relative_to(Path(__file__).parent).parts[0]
    if room not in STRICT_ROOMS:
        yield
        return
    # Imported late: the rooms that do without jax should not wait for it.
    import jax

    with jax.numpy_dtype_promotion("strict"):
        yield
