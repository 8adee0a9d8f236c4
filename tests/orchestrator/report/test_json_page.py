"""docs/json.md names every key of `report --json`, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from tests.orchestrator.conftest import Ran

PAGE = (Path(__file__).parents[3] / "docs/json.md").read_text()
SOMETIMES = {
    "published",
    "shift",
    "devices",
    "by_class",
}  # a sweep has them if it names published values, measures a shift, ...


def described(heading: str) -> set[str]:
    text = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return {*re.findall(r"(?m)^\| `(\w+)` \|", text)}


def test_every_key_is_on_the_page(finished: Ran) -> None:
    document = finished.document()
    parts = {
        "Document": document,
        "A cell": document["cells"][0],
        "A comparison": document["comparisons"][0],
        "The verdict": document["verdict"],
    }
    for heading, part in parts.items():
        assert part.keys() - SOMETIMES == described(heading) - SOMETIMES, heading
    assert {*re.findall(r"`(\w+)`", PAGE)} >= {"outcome", "p", "adjusted_p", "nfe", "others", "best_by"}
    assert document["verdict"]["arms"][0].keys() >= {"outcome", "p", "adjusted_p", "nfe", "others", "best_by"}
