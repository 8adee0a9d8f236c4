"""report.md: the report as text, for repositories and issues; its figures are the files in figures/."""

from __future__ import annotations

import re

from orchestrator.report.content import Bullets, CodeBlock, Content, Details, Part
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.table import Table, TableCell


def text(content: Content) -> str:
    parts = [f"# {plain(content.sweep)}", plain(content.facts)]
    parts += [f"> **{plain(notice)}**" for notice in content.notices]
    parts += [f"**{plain(content.headline)}**"] if content.headline else []
    for section in content.sections():
        parts += [f"## {section.title}", *map(_part, section.parts)]
    return "\n\n".join(parts) + "\n"


def _part(part: Part) -> str:
    match part:
        case Table():
            return table_text(part.on_page())
        case Drawing():
            return f"![{plain(part.title)}](figures/{part.name}.svg)\n\n*{plain(part.caption)}*"
        case Details():
            inside = "\n\n".join(map(_part, part.parts))
            return f"<details><summary>{plain(part.summary)}</summary>\n\n{inside}\n\n</details>"
        case CodeBlock():
            return _code(part)
        case Bullets():
            return "\n".join(f"- {plain(point)}" for point in part.points)
        case str():
            return plain(part)


def table_text(shown: Table) -> str:
    """A table in the form that is to be shown (`on_page`, `in_terminal`)."""
    title = [f"**{plain(shown.title)}**"] if shown.title else []
    head = "| " + " | ".join(plain(column.heading) for column in shown.columns) + " |"
    rule = "|" + "|".join("---:" if column.numeric else "---" for column in shown.columns) + "|"
    rows = ["| " + " | ".join(map(_cell, row.cells)) + " |" for row in shown.rows]
    return "\n\n".join([*title, "\n".join([head, rule, *rows]), *map(plain, shown.notes)])


def _cell(cell: TableCell) -> str:
    return f"{plain(cell.text)}<br><sub>{plain(cell.detail)}</sub>" if cell.detail else plain(cell.text)


def plain(words: str) -> str:
    """Text on one line that Markdown shows as it is, without markup or HTML of its own."""
    escaped = re.sub(r"([\\`*_\[\]#|~])", r"\\\1", " ".join(words.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(code: CodeBlock) -> str:
    """A fenced block; its fence is longer than any in its text."""
    longest = max((len(run) for run in re.findall("`+", code.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{code.language}\n{code.text.rstrip()}\n{fence}"
