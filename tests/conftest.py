"""What all tests share: the CPU, what was compiled, strict dtype promotion, repeatable draws."""

import os
import subprocess
import sys
import tempfile
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


def pytest_configure(config):
    """Lets all processes of a run share what one of them compiled, in a folder of that run alone.

    The workers of pytest-xdist, and what tests start, inherit the folder from the first process.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="precis-compiled-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


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


@pytest.fixture(scope="session")
def on_eight_devices():
    """Runs parts of a program, by name, in a process that has eight devices."""

    def run(program, *names):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
        done = subprocess.run(
            [sys.executable, str(program), *names],
            env=os.environ | {"XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.split() == list(names)

    return run


@pytest.fixture(scope="session")
def step_bytes():
    """What one update needs, arguments and results included, parameters and state donated."""
    import jax

    from precis.optim import apply_update

    def total(optimizer, leaf):
        def step(params, state, grads):
            return apply_update(optimizer, grads, state, params)[:2]

        state = jax.eval_shape(optimizer.init, leaf)
        program = jax.jit(step, donate_argnums=(0, 1)).lower(leaf, state, leaf).compile()
        memory = program.memory_analysis()
        return (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )

    return total
