"""The content of a report: sentences, tables and figures in order. html.py, markdown.py and latex.py render it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.report import by_class, explanations
from orchestrator.report.agreement import TITLE as AGREEMENT
from orchestrator.report.agreement import agreement_table
from orchestrator.report.answer import answer, limits, notices
from orchestrator.report.choices import TITLE, choice_tables, summary_table
from orchestrator.report.comparisons import Comparison, Group, groups
from orchestrator.report.costs import costs
from orchestrator.report.estimates import chosen
from orchestrator.report.figures import classes
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.every import draw_all
from orchestrator.report.formatting import reasons, short
from orchestrator.report.headline import facts, headline
from orchestrator.report.matrix import matrix
from orchestrator.report.published_values import PUBLISHED, published_table
from orchestrator.report.results import CellResult, Results
from orchestrator.report.shift_agreement import shift_agreement_table
from orchestrator.report.stamps import stamps_table
from orchestrator.report.table import Table
from orchestrator.report.tables import best_settings, comparison_tables, every_setting, shift_table
from orchestrator.report.verdict_table import verdict_table
from orchestrator.report.verdicts import verdicts
from orchestrator.store.store import Store


@dataclass(frozen=True)
class CodeBlock:
    text: str
    language: str = ""


@dataclass(frozen=True)
class Bullets:
    points: tuple[str, ...]


@dataclass(frozen=True)
class Details:
    """Parts that start folded."""

    summary: str
    parts: tuple[Table | CodeBlock | Bullets, ...]


Part = str | Table | Drawing | Details | CodeBlock | Bullets


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Content:
    sweep: str
    facts: str  # data, network, N, training seeds
    notices: tuple[str, ...]  # in what way the results are partial; shown first
    headline: str  # who won, by how much, how sure, at what price
    answer: tuple[str, ...]
    limits: tuple[str, ...]
    matrix: Table | None  # the differences of all arms, samplers and tasks, if there are several
    verdict: Table | None
    explained: tuple[str, ...]  # the words and numbers of the verdict
    choice: Table | None  # what was chosen
    trials: tuple[Table, ...]  # the candidates of each choice
    arms: tuple[Table, ...]
    settings: tuple[Table, ...]  # every setting, if arms have several
    published: Table | None
    drawings: tuple[Drawing, ...]
    shift: Table | None
    shift_agreement: Table | None
    agreement: Table | None
    by_class: tuple[Part, ...]  # tables of classes, every class, why some have no pictures
    notes: tuple[str, ...]  # why samples are not shown
    failed: Table | None
    missing: Table | None
    stamps: Table | None
    costs: tuple[str, ...]
    command: str
    text: str  # the sweep file

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables that have results. Of the classes the worst and the best: every class is in the JSON."""
        every = (
            self.matrix,
            self.verdict,
            self.choice,
            *self.arms,
            self.published,
            self.shift,
            self.shift_agreement,
            self.agreement,
            *(part for part in self.by_class if isinstance(part, Table)),
        )
        return tuple(table for table in every if table and table.rows)

    def sections(self) -> Iterator[Section]:
        """The sections in order, without empty ones."""
        shift: list[Part] = [self.shift if self.shift.rows else "Not measured yet."] if self.shift else []
        details = [Details("Every setting", self.settings)] if self.settings else []
        unlike = "Values with different stamps are never compared with each other."
        repeat = (CodeBlock(self.command), Details("The sweep file", (CodeBlock(self.text, "yaml"),)))
        samples: Sequence[Part] = self._drawn("samples") or [f"{note}." for note in self.notes]
        every: list[tuple[str, str, Sequence[Part | None]]] = [
            ("verdict", "Verdict", self._decided()),
            ("answer", "In words, with its limits", self._words()),
            ("choices", TITLE, self._chosen()),
            ("arms", "Arms", [*self.arms, *self._drawn("arms"), *details]),
            ("agreement", AGREEMENT, [self.agreement]),
            ("by_class", by_class.TITLE, [*self.by_class[:1], *self._drawn("by_class"), *self.by_class[1:]]),
            ("published", PUBLISHED, [replace(self.published, title="") if self.published else None]),
            ("scale", "Distance against guidance scale", self._drawn("scale")),
            ("precision_recall", "Precision against recall", self._drawn("precision_recall")),
            ("calls", "Distance against NFE", self._drawn("calls")),
            ("effective_scale", "Effective guidance scale", self._drawn("effective_scale")),
            ("shift", "Noise shift", [*shift, *self._drawn("shift"), self.shift_agreement]),
            ("samples", "Samples from the same noise", samples),
            ("missing", "What is missing", [self.failed, self.missing]),
            ("stamps", "How it was measured", [self.stamps, unlike] if self.stamps else []),
            ("repeat", "Cost, and how to repeat it", [*self.costs, *repeat]),
        ]
        for name, title, parts in every:
            present = tuple(part for part in parts if part is not None)
            if present:
                yield Section(name, title, present)

    def _decided(self) -> list[Part | None]:
        """The matrix if there is one, else the verdicts, beside the differences."""
        words = Details(explanations.TITLE, (Bullets(self.explained),)) if self.explained else None
        verdict = replace(self.verdict, title="") if self.verdict else None
        if self.matrix is None:
            return [verdict, words, *self._drawn("verdict")]
        return [self.matrix, *self._drawn("verdict"), verdict, words]

    def _words(self) -> list[Part]:
        said = () if self.headline == " ".join(self.answer) else self.answer
        return [*said, *([Bullets(self.limits)] if self.limits else [])]

    def _chosen(self) -> list[Part]:
        if self.choice is None:
            return []
        return [replace(self.choice, title=""), *self._drawn("choices"), Details("Every candidate", self.trials)]

    def _drawn(self, section: str) -> list[Drawing]:
        return [drawing for drawing in self.drawings if drawing.section == section]


def report_content(results: Results, comparisons: Sequence[Comparison], store: Store, command: str) -> Content:
    best = chosen(results)
    drawings, notes = draw_all(results, comparisons, store)
    scored = any(cell.scores for cell in results.cells)
    several = any(len(groups(results, arm.name)) > 1 for arm in results.plan.sweep.arms)
    settings = best_settings(results, best)
    ruled, said = verdicts(results, comparisons), tuple(filter(None, answer(results, comparisons, best)))
    return Content(
        results.plan.sweep.name,
        facts(results),
        tuple(notices(results)),
        headline(results, ruled) or " ".join(said),
        said,
        tuple(limits(results, comparisons, best)),
        matrix(results, ruled),
        verdict_table(results, ruled),
        explanations.explanations(results, ruled),
        summary_table(results),
        choice_tables(results),
        comparison_tables(results, comparisons, settings) if scored else (),
        comparison_tables(results, comparisons, every_setting(results)) if scored and several else (),
        published_table(results) if scored else None,
        tuple(drawings),
        shift_table(results, comparisons, settings),
        shift_agreement_table(results) if scored else None,
        agreement_table(results) if scored else None,
        tuple(_of_classes(results, best, classes.notes(results, best, store))),
        tuple(notes) if any(cell.complete for cell in results.cells) else (),
        _cells("Failed", [cell for cell in results.cells if cell.reason is not None]),
        _cells("Not done yet", [cell for cell in results.cells if not cell.complete and cell.reason is None]),
        stamps_table(results),
        tuple(costs(results, store)),
        command,
        results.plan.sweep.text,
    )


def _of_classes(results: Results, best: Mapping[str, Group], unseen: Sequence[str]) -> Iterator[Part]:
    sides = by_class.sides(results, best)
    yield from by_class.tables(results, sides)
    yield from (f"{note}." for note in unseen)
    if sides:
        yield Details("Every class", tuple(by_class.every_class(results, sides)))


def _cells(title: str, cells: Sequence[CellResult]) -> Table | None:
    """A row for each cell; below them why they failed, alike reasons once."""
    if not cells:
        return None
    rows = []
    for cell in cells:
        setting = ", ".join(f"{name} {short(value)}" for name, value in cell.params.items())
        rows.append([cell.arm, setting, cell.digest[:12]])
    table = Table.plain(["arm", "setting", "cell"], rows, f"{title} ({len(rows)})")
    told = [(f"{cell.arm} {cell.digest[:12]}", cell.reason) for cell in cells if cell.reason is not None]
    return replace(table, notes=tuple(reasons(told, len(cells))))
