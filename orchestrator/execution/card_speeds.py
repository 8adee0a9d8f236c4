"""How fast kinds of card evaluate networks, from `python -m benchmarks.gpu`: for forecasts without measurements.

To add a card: the entry that `entry` makes of its gpu.json. A precision that was not measured on it stays a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nag.numerics import Precision

FASTEST = Precision(dtype="bfloat16", compile=True)
NETWORK, GUIDANCE = "SiT-XL/2", "CFG"  # the rows that stand for a card
OPERATIONS = 2.37e11  # of one evaluation of XL/2 on 4 x 32 x 32
BRANCHES, STEPS = 2, 250  # evaluations of a step with CFG, and steps of an image, in those rows


@dataclass(frozen=True)
class CardSpeed:
    """card: as torch names it. key: how sites name it in gres or constraint, such as h100. operations: a second, a
    multiply-add as two, by precision as `row_name` names it.
    """

    card: str
    key: str
    operations: Mapping[str, float]
    torch: str
    date: str

    def of(self, precision: Precision) -> float | None:
        return self.operations.get(row_name(precision))

    def faster(self, precision: Precision) -> str:
        """What to write in a sweep to sample faster on this card, and how much; empty if it says so already."""
        name = max(self.operations, key=lambda name: self.operations[name])
        mine = self.of(precision) or self.operations.get("TF32")  # float32 is slower than TF32 on every card
        if mine is None or mine == self.operations[name] or name != row_name(FASTEST):
            return ""
        at_least = "" if self.of(precision) else "more than "
        times = f"{at_least}{self.operations[name] / mine:.1f} times as fast on {self.card}"
        return f"precision: {{dtype: bfloat16, compile: true}} samples {times}; docs/precision.md says what it changes."

    def words(self) -> str:
        return f"benchmarks.gpu on {self.card}, torch {self.torch}, {self.date}"


MEASURED: tuple[CardSpeed, ...] = (
    CardSpeed(
        "NVIDIA H100 80GB HBM3",
        "h100",
        {"bf16 + compile": 4.70e14, "bf16": 3.13e14, "TF32": 1.71e14},
        "2.11.0+cu130",
        "2026-11-27",
    ),
)


def row_name(precision: Precision) -> str:
    """How benchmarks.gpu names a precision: `bf16 + compile`."""
    name = "bf16" if precision.dtype == "bfloat16" else "TF32" if precision.tf32 else "float32"
    return name + " + compile" * precision.compile


def entry(document: Mapping[str, Any]) -> CardSpeed:
    """The entry of a gpu.json. Raises ValueError for results that say nothing of the card."""
    if document.get("tiny") or not document.get("driver"):
        raise ValueError("these are not results of a GPU: it was a trial with tiny networks, or on a CPU")
    rows = [row for part in document["parts"] if part["name"] == "sampling" for row in part["rows"]]
    rates: dict[str, float] = {}
    for row in rows:
        if (row["network"], row["guidance"]) == (NETWORK, GUIDANCE):
            rates[row["precision"]] = max(row["images/s"], rates.get(row["precision"], 0.0))
    if not rates:
        raise ValueError(f"there is no row of {NETWORK} with {GUIDANCE}: its part was not run, or had no time")
    key = re.search(r"\b[a-z]{0,3}\d{2,4}[a-z]?\b", document["card"].lower())
    if key is None:
        raise ValueError(f"no short name of the card is in {document['card']!r}")
    operations = {name: rate * BRANCHES * STEPS * OPERATIONS for name, rate in rates.items()}
    return CardSpeed(document["card"], key[0], operations, document["torch"], document["date"])


def of_site(*names: str | None, known: Sequence[CardSpeed] | None = None) -> CardSpeed | None:
    """The newest entry of the card that a site's gres or constraint names, such as gpu:h100:{gpus}; None if unknown."""
    words = {word for name in names if name for word in re.split(r"[^a-z0-9]+", name.lower())}
    found = [card for card in (MEASURED if known is None else known) if card.key in words]
    return max(found, key=lambda card: card.date, default=None)
