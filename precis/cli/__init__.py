"""The command `precis`: doors to sweeps, reports, policies and formats, thin and quick to open.

Exit codes: 0 all went well (a trial that diverged is a result), 1 a trial failed, 2 bad
configuration, 75 interrupted: the same command resumes.
"""

from precis.cli.program import BAD_CONFIGURATION, main, run_command

__all__ = ["BAD_CONFIGURATION", "main", "run_command"]
