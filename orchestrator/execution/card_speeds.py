"""How fast kinds of card evaluate networks, from `python -m benchmarks.gpu`: for forecasts without measurements.

MEASURED is empty: no card has run that script yet. To add one: the entry that `entry` makes of its gpu.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NETWORK, PRECISION, GUIDANCE = "SiT-XL/2", "bf16", "CFG"  # the row that stands for a card
OPERATIONS = 2.37e11  # of one evaluation of XL/2 on 4 x 32 x 32
BRANCHES, STEPS = 2, 250  # evaluations of a step with CFG, and steps of an image, in that row


@dataclass(frozen=True)
class CardSpeed:
    """card: as torch names it. key: how sites name it in gres or constraint, such as h100. operations: a second, a
    multiply-add as two.
    """

    card: str
    key: str
    operations: float
    torch: str
    date: str

    def words(self) -> str:
        return f"benchmarks.gpu on {self.card}, torch {self.torch}, {self.date}"


MEASURED: tuple[CardSpeed, ...] = ()


def entry(document: Mapping[str, Any]) -> CardSpeed:
    """The entry of a gpu.json. Raises ValueError for results that say nothing of the card."""
    if document.get("tiny") or not document.get("driver"):
        raise ValueError("these are not results of a GPU: it was a trial with tiny networks, or on a CPU")
    rows = [row for part in document["parts"] if part["name"] == "sampling" for row in part["rows"]]
    wanted = [r for r in rows if (r["network"], r["precision"], r["guidance"]) == (NETWORK, PRECISION, GUIDANCE)]
    if not wanted:
        raise ValueError(f"there is no row of {NETWORK}, {GUIDANCE}, {PRECISION}: its part was not run, or had no time")
    rate = max(row["images/s"] for row in wanted) * BRANCHES * STEPS * OPERATIONS
    key = re.search(r"\b[a-z]{0,3}\d{2,4}[a-z]?\b", document["card"].lower())
    if key is None:
        raise ValueError(f"no short name of the card is in {document['card']!r}")
    return CardSpeed(document["card"], key[0], rate, document["torch"], document["date"])


def of_site(*names: str | None, known: Sequence[CardSpeed] | None = None) -> CardSpeed | None:
    """The newest entry of the card that a site's gres or constraint names, such as gpu:h100:{gpus}; None if unknown."""
    words = {word for name in names if name for word in re.split(r"[^a-z0-9]+", name.lower())}
    found = [card for card in (MEASURED if known is None else known) if card.key in words]
    return max(found, key=lambda card: card.date, default=None)
