"""A checkpoint whose model is not known in few bits: what its weights lost, read off the files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precis.models.loader import Written
    from precis.ptq import Mode, ModeRule


def quantized_files(
    src: Path,
    out: Path | None,
    rules: Sequence[tuple[str, str]],
    *,
    calibrate: str,
    smooth: float | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Writes `src` in few bits to `out`, and says what that cost and saved.

    Returns:
        As the record of a `precis.ptq.Report`, of weights alone.

    Raises:
        ValueError: No `out`; a mode that is calibrated, for which a model has to run.
    """
    from precis.models.loader import quantize_checkpoint
    from precis.ptq import Report, mode_rules
    from precis.quant import QuantRule

    if out is None:
        raise ValueError(f"{src} is no trial, so it is not evaluated: --out DST is wanted")
    modes = mode_rules(rules)
    calibrated = [rule.mode.name for rule in modes if _is_calibrated(rule.mode)]
    if calibrated or smooth is not None:
        raise ValueError(
            f"{calibrated[0] if calibrated else '--smooth'} needs the inputs of a model: a trial "
            "of a sweep has one, a checkpoint alone has not"
        )
    given = [QuantRule(rule.pattern, rule.mode.weight, rule.axis) for rule in modes]
    done = quantize_checkpoint(src, out, given, calibrate=calibrate, overwrite=overwrite)
    return Report(
        rows=tuple(_rows(src, done, modes)),
        kept=dict(done.kept),
        bytes_before=done.bytes_before,
        bytes_after=done.bytes_after,
        output_db=None,
        loss_before=None,
        loss_after=None,
    ).record()


def _is_calibrated(mode: Mode) -> bool:
    return mode.is_static or mode.has_outliers


def _rows(src: Path, done: Written, modes: Sequence[ModeRule]) -> Iterator[Any]:
    """One weight at a time, so that no two floats are in memory."""
    import jax.numpy as jnp

    from precis.models.loader import load_node, open_source
    from precis.ptq import Row
    from precis.ptq.modes import mode_at
    from precis.ptq.weight_facts import weight_facts
    from precis.tree import nbytes

    before, after = open_source(src), open_source(done.where)
    for path, fmt in done.formats.items():
        rule, stored = mode_at(modes, done.names[path]), load_node(after, path)
        assert rule is not None, path
        facts = weight_facts(jnp.asarray(before.whole(path)), stored)
        yield Row(
            path=path,
            mode=rule.mode.name,
            format=fmt,
            rule=rule.pattern,
            weight_db=facts.sqnr_db,
            alone_db=None,
            cumulative_db=None,
            loss_alone=None,
            loss_cumulative=None,
            clipped=facts.clipped,
            zeros=facts.zeros,
            bytes_before=nbytes(before.leaves[path]),
            bytes_after=nbytes(stored),
        )
