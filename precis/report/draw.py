"""The figures as inline SVG: the final gaps; loss, its gap and the loss scale over steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from precis.report import curves
from precis.report.answer import badge, detail
from precis.report.canvas import HALF, WHOLE, line, log_axis, render
from precis.report.palette import BAND, FLOOR, INK, Style, stand_in, styles
from precis.report.powers import power
from precis.report.records import Store
from precis.report.rows import Row, TaskTable
from precis.report.words import number, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW_PX = 26
# Beyond six tolerances a linear axis would squeeze the tolerance itself out of sight.
_LINEAR = 6


class Figures(NamedTuple):
    """The figures of one task, each an `<svg>` element or an empty text.

    Their colors are the page's CSS variables and fall back on the light ones, so they can be shown
    alone, as in a notebook.

    Attributes:
        gaps: Final paired gaps against the tolerance.
        losses: Training loss over steps.
        drift: Gap of the training loss to the baseline at matched steps.
        scales: Loss scale over steps, of the arms that have one.
    """

    gaps: str
    losses: str
    drift: str
    scales: str


def figures(store: Store, table: TaskTable) -> Figures:
    """All figures of a task, in the colors that its sweep gives to the arms."""
    look = styles(store)
    return Figures(*(draw(table, look) for draw in (gaps, losses, drift, scales)))


def gaps(table: TaskTable, styles: dict[str, Style]) -> str:
    """The final paired gap of each arm with its 95% interval, against the tolerance.

    Worse is to the right whatever the metric's direction. An arm without a gap says why. Without
    any arm but the baseline the text is empty.
    """
    rows = [row for row in table.rows if row.part != "baseline"]
    if not rows:
        return ""
    limit = _limit(table, rows)
    worse = 1 if table.task.direction == "min" else -1

    def draw(axes: Axes) -> None:
        for size, ink in ((table.tolerance, BAND), (table.floor, FLOOR)):
            if size:
                edge = min(size, limit)
                axes.axvspan(-edge, edge, color=stand_in(ink), alpha=0.16, linewidth=0)
        axes.axvline(0, color=stand_in(INK), linewidth=1)
        for place, row in enumerate(rows):
            _gap_row(axes, table, row, place, styles[row.arm.name])
        _gap_axis(axes, table, limit)
        axes.set_xlim(-worse * limit, worse * limit)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [row.arm.name for row in rows])
        axes.tick_params(axis="y", length=0, labelcolor=stand_in(INK))
        axes.grid(visible=False, axis="y")

    height = 40 + _ROW_PX * len(rows)
    label = f"Final gap of {table.task.metric} to the baseline, by arm"
    return render(draw, WHOLE, height, salt=f"gaps {table.task.label}", label=label)


def losses(table: TaskTable, styles: dict[str, Style]) -> str:
    """The training loss over steps: each seed faint, the mean strong, a cross at a divergence.

    Empty as long as nothing is logged.
    """
    found = [(row, loss) for row in table.rows if (loss := curves.loss(row))]
    if not found:
        return ""
    firsts = [values[0] for _, loss in found for _, values in loss.seeds]
    lasts = [values[-1] for _, loss in found for _, values in loss.seeds]
    # A seed that is about to diverge may climb by orders of magnitude; it leaves the frame instead
    # of flattening the others.
    top = 1.1 * max(firsts, default=1.0)
    logarithmic = bool(lasts) and 0 < 10 * min(lasts) < top

    def draw(axes: Axes) -> None:
        for row, loss in found:
            style = styles[row.arm.name]
            for steps, values in loss.seeds:
                axes.plot(steps, values, alpha=0.35, **line(style, 0.8))
            # Wider than those drawn over it, so that the baseline stays visible where all agree.
            axes.plot(*loss.mean, **line(style, 4.5 if row.part == "baseline" else 2.0))
            for step, value in loss.ends:
                axes.plot([step], [min(value, top)], "x", markersize=9, **line(style, 2.4))
        if logarithmic:
            log_axis(axes)
        axes.set_ylim(top=top)
        axes.set_xlabel("step")

    return render(
        draw, HALF, 320, salt=f"losses {table.task.label}", label="Training loss over steps, by arm"
    )


def drift(table: TaskTable, styles: dict[str, Style]) -> str:
    """How far each arm's training loss is from the baseline's at the same step and seed.

    Empty as long as there is no pair of seeds.
    """
    base = table.baseline
    found = [
        (row, gap)
        for row in table.rows
        if base and row is not base and (gap := curves.gap(row, base))
    ]
    if not found:
        return ""
    positive = [gap.middle[gap.middle > 0].min() for _, gap in found if (gap.middle > 0).any()]
    bottom = 0.5 * min(positive, default=1e-8)

    def draw(axes: Axes) -> None:
        for row, gap in found:
            style = styles[row.arm.name]
            color = stand_in(style.ink)
            if row.part == "noise floor":
                axes.fill_between(gap.steps, bottom, gap.high, color=color, alpha=0.22, linewidth=0)
            else:
                low = np.maximum(gap.low, bottom)
                axes.fill_between(gap.steps, low, gap.high, color=color, alpha=0.13, linewidth=0)
            axes.plot(gap.steps, np.maximum(gap.middle, bottom), **line(style, 2.0))
        log_axis(axes)
        axes.set_ylim(bottom=bottom)
        axes.set_xlabel("step")

    label = "Gap of the training loss to the baseline at matched steps, by arm"
    return render(draw, HALF, 320, salt=f"drift {table.task.label}", label=label)


def scales(table: TaskTable, styles: dict[str, Style]) -> str:
    """The loss scale of each seed over steps, a cross where steps were skipped.

    Empty if no loss is scaled.
    """
    found = [(row, seed) for row in table.rows for seed in curves.scales(row)]
    if not found:
        return ""

    def draw(axes: Axes) -> None:
        for row, seed in found:
            style = styles[row.arm.name]
            axes.step(seed.steps, seed.values, where="post", **line(style, 1.6))
            if seed.skips:
                marks = line(style, 2.0) | {"linestyle": "", "marker": "x", "markersize": 7}
                axes.plot(*zip(*seed.skips, strict=True), **marks)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: power(value) or short(value))
        low = min(seed.values.min() for _, seed in found)
        high = max(seed.values.max() for _, seed in found)
        # A scale that never moved deserves a frame too.
        axes.set_ylim(low / 4, high * 4)
        axes.set_xlabel("step")

    label = "Loss scale over steps, by arm and seed"
    return render(draw, WHOLE, 200, salt=f"scales {table.task.label}", label=label)


def _limit(table: TaskTable, rows: list[Row]) -> float:
    """How far the axis reaches to each side: all means and intervals, and the tolerance."""
    ends = [abs(end) for row in rows if row.gap for end in (row.gap.mean, *row.gap.interval())]
    finite = [end for end in ends if math.isfinite(end)]
    return 1.1 * max([*finite, 1.5 * (table.tolerance or 0.0)]) or 1.0


def _gap_axis(axes: Axes, table: TaskTable, limit: float) -> None:
    tolerance = table.tolerance
    if tolerance and limit > _LINEAR * tolerance:
        axes.set_xscale("symlog", linthresh=tolerance, linscale=1)
        first = math.ceil(math.log10(2 * tolerance))
        decades = [10.0**k for k in range(first, math.floor(math.log10(limit)) + 1)]
        sizes = [tolerance, *decades]
        ticks = [*(-size for size in reversed(sizes)), 0.0, *sizes]
        axes.set_xticks(ticks, [number(t, 0) if t == 0 else _signed(t) for t in ticks])
        axes.set_xticks([], minor=True)
    axes.set_xlabel(f"gap of {table.task.metric} to the baseline{_unit(table)}")
    # Below the tick labels, at the end to which `set_xlim` turns the bad side.
    corner = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate("worse →", (1, 0), (0, -22), ha="right", va="top", fontsize=11.5, **corner)


def _gap_row(axes: Axes, table: TaskTable, row: Row, place: int, style: Style) -> None:
    color = stand_in(style.ink)
    if row.gap is None:
        text = f"{badge(row)}: {detail(table, row)}"
        across = axes.get_yaxis_transform()
        axes.text(0.99, place, text, color=color, ha="right", va="center", transform=across)
        return
    low, high = row.gap.interval()
    if math.isfinite(low):
        axes.plot([low, high], [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot([low, high], [place, place], "|", color=color, markersize=9, markeredgewidth=1.6)
    below = [place + 0.3] * row.gap.n
    axes.plot(row.gap.values, below, "o", color=color, markersize=3.4, markeredgewidth=0)
    axes.plot([row.gap.mean], [place], "D", color=color, markersize=6.5, markeredgewidth=0)


def _signed(x: float) -> str:
    return ("+" if x > 0 else "") + short(x)


def _unit(table: TaskTable) -> str:
    return f", {table.task.unit}" if table.task.unit else ""
