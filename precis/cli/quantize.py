"""The command `quantize`: a trained model in few bits, evaluated before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from precis.cli.arguments import Output, arg
from precis.cli.console import open_console

if TYPE_CHECKING:
    from precis.sweep.trained import Trained


def quantize(
    checkpoint: tyro.conf.Positional[Path],
    *,
    mode: Annotated[str, tyro.conf.arg(name="format", metavar="MODE|FORMAT")],
    rules: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(name="rule", metavar="PATTERN=MODE"),
    ] = (),
    calibrate: Annotated[str, arg("HOW")] = "absmax",
    smooth: Annotated[float | None, arg("ALPHA")] = None,
    output: Output = "terminal",
    out: Annotated[Path | None, arg("DST")] = None,
    overwrite: bool = False,
) -> int:
    """Quantize a trained model, and say what that costs and saves.

    Args:
        checkpoint: A trial's folder, as a sweep wrote it: runs/NAME/TRIAL. With --out also a
            .safetensors file, a folder of such shards, or one that orbax wrote: of these, whose
            model is not known, the report is on weights alone.
        mode: What weights run as: w8a8, w8a8_static, w8a8_outliers, w8a8_fp8, w8, w4, nf4, or
            the name of a format for weights alone.
        rules: Another mode for some paths, as 'head/**=f32'; may be given more than once, and
            the last one that matches wins.
        calibrate: What weights are scaled by: absmax, minmax, mse or percentile=99.9.
        smooth: Divide large columns of inputs by what weights can take over (SmoothQuant), this
            much of it: 0.5 is the paper's.
        output: How the report is printed.
        out: Where the model is written to: a file that ends in .safetensors, or a folder.
        overwrite: Replace what is there.
    """
    from precis.cli.quantize_files import quantized_files
    from precis.models.loader import refuse_existing, save_quantized
    from precis.report import print_quantized, quantized_markdown
    from precis.sweep.store.strict import strict
    from precis.sweep.trained import load_trained

    pairs = [("**", mode), *(_pair(rule) for rule in rules)]
    title = f"{checkpoint.name}, {'; '.join([mode, *rules])}"
    remarks: list[str] = []
    if _is_trial(checkpoint):
        if out is not None:
            refuse_existing(out, overwrite=overwrite)
        trained = load_trained(checkpoint)
        made = _quantized(trained, pairs, calibrate=calibrate, smooth=smooth)
        record = made.record
        remarks.append(made.evaluation)
        if out is not None:
            save_quantized(made.qparams, out, overwrite=overwrite)
    else:
        record = quantized_files(
            checkpoint, out, pairs, calibrate=calibrate, smooth=smooth, overwrite=overwrite
        )
    if out is not None:
        remarks.append(f"written to {out}; precis.load_quantized reads it")
    match output:
        case "terminal":
            console = open_console()
            print_quantized(record, console, title=title)
            for remark in remarks:
                console.print(remark, highlight=False)
        case "markdown":
            print("\n".join([f"## {title}", "", quantized_markdown(record), *remarks]))
        case "json":
            print(json.dumps(strict({"title": title, **record}), indent=2, ensure_ascii=False))
    return 0


class _Quantized(NamedTuple):
    """A trial's model in few bits.

    Attributes:
        record: That of the report.
        evaluation: The metric before and after, in a sentence.
        qparams: The parameters.
    """

    record: dict[str, Any]
    evaluation: str
    qparams: Any


def _is_trial(checkpoint: Path) -> bool:
    """Whether to look for a trial there; also where there is nothing else, for the error.

    A trial has its arrays three folders down, checkpoints/STEP/arrays, what orbax alone wrote at
    most two.
    """
    patterns = ("*.safetensors", "_METADATA", "*/_METADATA", "*/*/_METADATA")
    found = (next(checkpoint.glob(pattern), None) for pattern in patterns)
    return not checkpoint.is_file() and all(path is None for path in found)


def _pair(rule: str) -> tuple[str, str]:
    pattern, equals, mode = rule.rpartition("=")
    if not equals or not pattern or not mode:
        raise ValueError(f"--rule {rule!r}: a pattern and a mode are wanted, as in 'head/**=f32'")
    return pattern, mode


def _quantized(
    trained: Trained, rules: list[tuple[str, str]], *, calibrate: str, smooth: float | None
) -> _Quantized:
    from precis import ptq
    from precis.sweep.quantizing import quantize_trained
    from precis.train.evaluate import averaging, metrics_of

    task, params, state = trained.task, trained.floats, trained.state
    fn, qparams = quantize_trained(trained, rules, calibrate=calibrate, smooth=smooth)
    held_out, metric = list(task.eval_batches()), task.metric[0]
    plain = metric.removeprefix("eval_")
    told = ptq.report(fn, params, qparams, state, held_out[0], loss=lambda found: found[plain])
    before = averaging(task, metrics_of(task))(params, state)[metric]
    after = averaging(task, fn)(qparams, state)[metric]
    count = "one held-out batch" if len(held_out) == 1 else f"{len(held_out)} held-out batches"
    evaluation = (
        f"{metric} over {count}: {before:.5g} → {after:.5g} "
        f"{task.unit}, after step {trained.step}"
        f"{'; the table is of the first of them' if len(held_out) > 1 else ''}"
    )
    own = {"metric": metric, "unit": task.unit, "before": before, "after": after}
    return _Quantized({**told.record(), "evaluation": own}, evaluation, qparams)
