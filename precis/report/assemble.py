"""From records to a report: a section a task, and what is wrong with the sweep as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from precis.report.answer import Answer, answer
from precis.report.quantized_reasons import quantized_reasons
from precis.report.reasons import reasons
from precis.report.records import Store, Trial
from precis.report.rows import TaskTable, table
from precis.report.words import count


@dataclass(frozen=True, slots=True)
class Section:
    """What the report says of one task.

    Attributes:
        table: Its rows.
        answer: What the rows amount to.
        findings: (arm, reasons) of each arm of which there is something to say.
    """

    table: TaskTable
    answer: Answer
    findings: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A sweep's report, before it takes on one of its faces.

    Attributes:
        store: What it was made from.
        sections: One a task, in the plan's order.
        warnings: What a reader must know before trusting any of it.
    """

    store: Store
    sections: tuple[Section, ...]
    warnings: tuple[str, ...]

    @property
    def broken(self) -> tuple[Trial, ...]:
        """The trials that diverged or failed, in the plan's order."""
        return tuple(t for t in self.store.trials if t.state in ("diverged", "failed"))


def summarize(store: Store) -> Report:
    """The report on `store`; it depends on nothing else, and not on the time."""
    return Report(store, tuple(_section(table(store, task)) for task in store.tasks), _warn(store))


def _section(rows: TaskTable) -> Section:
    told = (
        (row.arm.name, (quantized_reasons if row.arm.quantize else reasons)(rows, row))
        for row in rows.rows
    )
    return Section(rows, answer(rows), tuple(finding for finding in told if finding[1]))


def _warn(store: Store) -> tuple[str, ...]:
    found = []
    by_state: dict[str, int] = {}
    for trial in store.trials:
        by_state[trial.state] = by_state.get(trial.state, 0) + 1
    waiting = [f"{n} {s}" for s in ("pending", "running", "interrupted") if (n := by_state.get(s))]
    if waiting:
        total = count(len(store.trials), "trial")
        found.append(f"This sweep is not complete: of {total}, {', '.join(waiting)}.")
    if failed := by_state.get("failed"):
        found.append(f"{count(failed, 'trial')} raised an error and gave no result; see the end.")
    prints = {trial.fingerprint for trial in store.trials if trial.fingerprint}
    if prints and prints != {store.environment.get("fingerprint")}:
        found.append("Some trials were run by another version of the code than the environment's.")
    return tuple(found)
