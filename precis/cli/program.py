"""From arguments to an exit code: which command runs, and what its errors become."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

# Rooms are imported by the commands that need them: `--help` must not wait for any.
from precis.cli.explain import explain
from precis.cli.formats import formats, with_true_minus
from precis.cli.policies import policy
from precis.cli.quantize import quantize
from precis.cli.sweeps import report, run, status, sweep

BAD_CONFIGURATION = 2


def main() -> None:
    """Runs the command line and exits."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """The exit code of `precis` with `arguments`."""
    commands: dict[str, Callable[..., Any]] = {
        "sweep": sweep,
        "run": run,
        "status": status,
        "report": report,
        "explain": explain,
        "quantize": quantize,
        "policy": policy,
        "formats": formats,
    }
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="precis",
            description="A laboratory for numerical precision in JAX.\n\nExit codes: 0 ok, "
            "1 a trial failed, 2 bad configuration,\n75 interrupted: the same command resumes.",
            args=with_true_minus(arguments),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except (ValueError, OSError) as error:
        print(f"precis: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
