"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def markdown(document: Mapping[str, Any]) -> str:
    """A heading with the stamp, then a table, notes and the failure of each part."""
    stamp = ", ".join(str(document[key]) for key in ("card", "driver", "date") if document.get(key))
    lines = [f"# {stamp}", "", f"torch {document['torch']}, Python {document['python']}, {document['cores']} CPU cores"]
    if document["tiny"]:
        lines.append("\nTiny networks: this shows that everything runs, and measures nothing.")
    for part in document["parts"]:
        lines += ["", f"## {part['title']}", ""]
        for rows in _alike(part["rows"]):
            lines += [*_table(rows), ""]
        lines += [f"- {note}" for note in part["notes"]]
        if part["failed"]:
            lines.append(f"- **failed**: {part['failed']}")
        lines.append(f"- took {part['seconds']:.0f} s")
    if (share := beside_the_generator(document)) is not None:
        lines += [
            "",
            f"Of a cell of SiT-XL/2 with CFG in bf16, {100 * share:.1f} % of the time is not the generator's.",
        ]
    return "\n".join(lines)


def beside_the_generator(document: Mapping[str, Any]) -> float | None:
    """Share of decoding (VAE in float32) and Inception's features in the time of a sample; None if not measured."""
    rows = [row for part in document["parts"] for row in part["rows"] if row.get("images/s")]

    def least(**wanted: str) -> float | None:
        """Seconds of an image, by the fastest row."""
        fitting = [row["images/s"] for row in rows if all(row.get(key) == value for key, value in wanted.items())]
        return 1 / max(fitting) if fitting else None

    generator = least(network="SiT-XL/2", guidance="CFG", precision="bf16 + compile")
    others = [least(what="VAE"), least(what="Inception")]
    if generator is None or None in others:
        return None
    beside = sum(each for each in others if each is not None)
    return beside / (generator + beside)


def _alike(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows in tables of equal columns, in order."""
    tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        tables.setdefault(tuple(row), []).append(row)
    return list(tables.values())


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    return lines + ["| " + " | ".join(_cell(name, row[name]) for name in row) + " |" for row in rows]


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "**no**" if column == "holds" else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|")
