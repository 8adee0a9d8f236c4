"""Contrast, saturation and clipped pixels of samples beside those of the reference: what strong guidance overdoes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics.metric import Metric, Score, Scores, Shown, influence_name, rows
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np

NOTE = (
    "Contrast and saturation: means over the samples, in units of the reference images' mean. Clipped: the share of "
    "channel values at 0 or 255 above that of the reference images."
)


@method
class Colour(Metric):
    """contrast and saturation: the mean over the samples over the mean over the reference images, 1 is alike; clipped:
    the mean share of clipped values minus that of the reference images, 0 is alike.

    They say what a setting does to colours, not how good it is, so they stand beside NFE and decide nothing. The
    intervals are for this reference, from each sample's influence on a mean. Grey images have no saturation.
    """

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"colour"})
    names: ClassVar[tuple[str, ...]] = ("contrast", "saturation", "clipped")
    lower_is_better: ClassVar[dict[str, bool | None]] = {"contrast": None, "saturation": None, "clipped": None}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {
        "contrast": Shown(heading="contr.", cost=True, note=NOTE),
        "saturation": Shown(heading="satur.", cost=True),
        "clipped": Shown(heading="clip.", format="signed", cost=True),
    }

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """colour (N, 3) of the samples and (N_r, 3) of the reference; arrays: influence (N,) on each value.

        Raises ValueError below two samples or one reference image and for values that are not finite.
        """
        from nag.intervals import influence_interval

        x = rows(samples, "colour", "sample colours", self.least).astype("float64")
        unit = rows(reference, "colour", "reference colours", 1).mean(axis=0, dtype="float64")
        values, arrays = {}, {}
        for column, name in enumerate(self.names):
            scale = unit[column] if name != "clipped" else 1.0
            if scale == 0:
                reason = f"no value: the reference images have no {name}"
                values[name] = Score(value=None, low=None, high=None, extrapolated=None, reason=reason)
                continue
            value = float(x[:, column].mean() / scale) - (float(unit[column]) if name == "clipped" else 0.0)
            IF = (x[:, column] - x[:, column].mean()) / scale
            arrays[influence_name(self.names, name)] = IF.astype("float32")
            low, high = influence_interval(value, IF)
            values[name] = Score(value=value, low=low, high=high, extrapolated=None, reason=None)
        return Scores(values=values, arrays=arrays)
