import json
import os
import resource
import subprocess
import sys

import pytest

from precis.policy import get_policy

SWEEP = """
seeds = [0, 1]
[[task]]
name = "digits"
model = "mlp"
steps = 10
[[arm]]
name = "f32"
policy = "f32"
"""

# Runs the command and then tells whether jax came in.
CHECK = """
import sys
from precis.cli import run_command
code = run_command(sys.argv[1:])
print("jax" if "jax" in sys.modules else "no jax")
sys.exit(code)
"""


def precis(*arguments, program=("-m", "precis.cli"), cwd=None):
    """Exit code, output, and seconds of CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ran.returncode, ran.stdout + ran.stderr, cpu_s


def test_help_is_quick():
    precis("--help")  # Bytecode is compiled once.
    code, output, cpu_s = precis("--help")
    assert code == 0
    assert all(word in output for word in ("sweep", "run", "status", "report", "policy", "formats"))
    assert cpu_s < 0.5


@pytest.mark.parametrize(
    "command", ["sweep", "run", "status", "report", "policy", "formats", "explain", "quantize"]
)
def test_every_command_explains_itself(command):
    code, output, _ = precis(command, "--help")
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80


def test_policy_prints_every_role_without_jax():
    code, output, _ = precis("policy", "c=bf16,s=bf16,r=bf16", program=("-c", CHECK))
    assert code == 0
    assert "no jax" in output
    assert "on one device it changes nothing" in output
    for role in get_policy("c=bf16,s=bf16,r=bf16").roles():
        assert any(line.split() == " ".join(role).split() for line in output.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["policy", "mixed_fp16"], "did you mean 'mixed_f16'"),
        (["policy", "half"], "half"),
        (["sweep", "none.toml"], "no such sweep file"),
        (["status", "."], "the folder of a sweep is wanted"),
        (["report", "."], "a sweep's folder"),
        (["run", "digit"], "did you mean 'digits'"),
        (["run", "digits", "--policy", "f23"], "no policy is called 'f23'"),
        (["run", "digits", "--set", "recipe.lr=1"], "recipe: unknown key 'lr'"),
        (["sweep"], ""),
        (["swep"], ""),
    ],
)
def test_bad_configuration_is_2(arguments, said, tmp_path):
    code, output, _ = precis(*arguments, cwd=tmp_path)
    assert code == 2, output
    assert said in output
    assert "Traceback" not in output
    assert not (tmp_path / "runs").exists()


def test_a_sweep_from_file_to_report_and_again(tmp_path):
    path = tmp_path / "mini.toml"
    path.write_text(SWEEP)
    code, output, _ = precis("sweep", path, "--dry-run", cwd=tmp_path, program=("-c", CHECK))
    assert code == 0
    assert "2 trials; nothing was run" in output
    assert "no jax" in output
    assert not (tmp_path / "runs").exists()

    code, output, _ = precis("sweep", path, "--set", "task.digits.steps=6", cwd=tmp_path)
    assert code == 0, output
    assert "report: runs/mini/report.html" in output
    folder = tmp_path / "runs" / "mini"
    assert (folder / "sweep.toml").read_bytes() == path.read_bytes()
    assert json.loads((folder / "plan.json").read_text())["tasks"]["digits-mlp"]["steps"] == 6
    page = (folder / "report.html").stat().st_mtime_ns

    # Again: nothing to do, so neither jax nor a new report.
    again = ("sweep", path, "--set", "task.digits.steps=6")
    code, output, cpu_s = precis(*again, cwd=tmp_path, program=("-c", CHECK))
    assert code == 0
    assert "2 of 2 trials have their result already" in output
    assert "no jax" in output
    assert cpu_s < 4
    assert (folder / "report.html").stat().st_mtime_ns == page

    code, output, _ = precis("status", folder, program=("-c", CHECK))
    assert code == 0
    assert output.count("finished") == 2
    assert "no jax" in output
    code, output, _ = precis("report", folder, program=("-c", CHECK))
    assert code == 0
    assert "no jax" in output
    assert (folder / "report.html").stat().st_mtime_ns > page
