"""What reports must know about a metric or measure: how its values are named, written and compared.

It is part of a stored plan, so that a report needs neither the YAML nor the code of a user's own metric.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from nag.metrics.metric import Shown, shown
from nag.registry import name_of

FRECHET = "Fréchet distance"


@dataclass(frozen=True)
class Value:
    """One of a metric's values. lower_is_better: None if neither direction is: a noise shift is best at zero."""

    name: str
    words: str  # its name in words: `FID`, `recall (pixels)`, `FD-DINOv2`, `Fréchet distance (digits)`
    lower_is_better: bool | None
    shown: Shown


@dataclass(frozen=True)
class Reported:
    """A metric of one extractor, or a measure: then `extractor` is empty.

    Reports add `suffix`, empty for the first extractor, to the names of its values. extrapolates: it is biased in N, so
    differences are taken between extrapolated values. setting: its fields that are not None, such as ` k 3`; other
    settings give other values. mode: how the extractor resizes. plane: two of its values (x, y) to draw against each
    other. prepares: how the extractor prepares images, in words.
    """

    name: str
    extractor: str
    suffix: str
    values: tuple[Value, ...]
    needs: tuple[str, ...]
    extrapolates: bool
    setting: str
    mode: str = ""
    plane: tuple[str, str] | None = None
    prepares: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.values)


def reported(metric: Any, extractor: Any = None, suffix: str = "") -> Reported:
    """extractor: None for a measure. A user's own metric that `check` only reads has no members."""
    fields = [f.name for f in dataclasses.fields(metric) if f.name not in ("estimator", "against")]
    plane = getattr(metric, "plane", None)
    drawn = isinstance(plane, tuple) and len(plane) == 2 and {*plane} <= {*metric.names}
    return Reported(
        name=name_of(metric),
        extractor=name_of(extractor) if extractor else "",
        suffix=suffix,
        values=tuple(_value(metric, name, extractor, suffix) for name in metric.names),
        needs=tuple(sorted(getattr(metric, "needs", ()))),
        extrapolates=getattr(metric, "extrapolates", False),
        setting="".join(f" {name} {value}" for name in fields if (value := getattr(metric, name)) is not None),
        mode=(extractor.mode or "") if extractor else "",
        plane=plane if drawn else None,
        prepares=(extractor.prepares or "") if extractor else "",
    )


def _value(metric: Any, name: str, extractor: Any, suffix: str) -> Value:
    how = shown(metric, name)
    words = how.label or (name.upper() if len(name) <= 3 else name.replace("_", " "))
    if extractor and words.startswith("FID"):  # the name is of Inception's features alone
        own = extractor.distance_name
        own = own if isinstance(own, str) else f"{FRECHET} ({suffix[1:] or name_of(extractor)})"
        words = words.replace("FID", own, 1)
        if how.heading and own != "FID":
            how = dataclasses.replace(how, heading=how.heading.replace("FID", "FD", 1))
    elif suffix:
        words = f"{words} ({suffix[1:]})"
    return Value(name, words, metric.lower_is_better[name], how)
