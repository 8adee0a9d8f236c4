"""report.md: the same report as text, for repositories and issues; its figures are the files in figures/."""

from __future__ import annotations

import re

from orchestrator.report.content import TITLES, Content
from orchestrator.report.tables import Item, Table


def text(found: Content) -> str:
    parts = [f"# {plain(found.sweep)}", *(f"> **{plain(notice)}**" for notice in found.notices)]
    parts += [plain(sentence) for sentence in found.answer]
    if found.answer and found.limits:
        parts.append("\n".join(f"- {plain(limit)}" for limit in found.limits))
    for key, title in TITLES.items():
        section = _section(key, found)
        if section:
            parts += [f"## {title}", *section]
    if found.failed or found.missing:
        parts.append("## What is missing")
        for name, table in (("Failed", found.failed), ("Not done yet", found.missing)):
            if table:
                parts += [f"### {name} ({len(table.rows)})", _table(table)]
    if found.stamps:
        parts += ["## How it was measured", _table(found.stamps)]
        parts.append("Values under unlike stamps are never compared with each other.")
    parts += ["## Cost, and how to repeat it", *map(plain, found.costs), _code(found.command)]
    parts.append(f"<details><summary>The sweep file</summary>\n\n{_code(found.text, 'yaml')}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def _section(key: str, found: Content) -> list[str]:
    parts: list[str] = []
    if key == "arms" and found.arms:
        parts += map(_table, found.arms)
    if key == "published" and found.published:
        parts.append(_table(found.published))
    if key == "shift" and found.shift:
        parts.append(_table(found.shift) if found.shift.rows else "Not measured yet.")
    for drawing in found.drawn(key):
        parts += [f"![{plain(drawing.title)}](figures/{drawing.name}.svg)", f"*{plain(drawing.caption)}*"]
    if key == "arms" and found.settings:
        tables = "\n\n".join(map(_table, found.settings))
        parts.append(f"<details><summary>Every setting</summary>\n\n{tables}\n\n</details>")
    if key == "samples" and not found.drawn(key):
        parts += [f"{plain(note)}." for note in found.notes]
    return parts


def _table(table: Table) -> str:
    head = "| " + " | ".join(map(plain, table.columns)) + " |"
    rule = "|" + "|".join("---:" if place in table.numeric else "---" for place in range(len(table.columns))) + "|"
    rows = ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
    return "\n\n".join(["\n".join([head, rule, *rows]), *map(plain, table.notes)])


def _cell(item: Item) -> str:
    return f"{plain(item.text)}<br><sub>{plain(item.detail)}</sub>" if item.detail else plain(item.text)


def plain(words: str) -> str:
    """Text that Markdown takes as it is: on one line, without markup or HTML of its own."""
    escaped = re.sub(r"([\\`*_\[\]#|~])", r"\\\1", " ".join(words.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(words: str, language: str = "") -> str:
    """A fenced block whose fence is longer than any in its text."""
    longest = max((len(run) for run in re.findall("`+", words)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{words.rstrip()}\n{fence}"
