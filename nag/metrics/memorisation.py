"""Memorisation: the distance of each sample to the nearest training image, and the share that is too near."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics.metric import Metric, Score, Scores, Shown, feature_pair, rows
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np

PERCENT = 1  # of new images are as near to a training image as a sample that counts as memorised


@method
class Memorisation(Metric):
    """Share of samples that are as near to a training image as the nearest 1 % of new images are.

    New images are the held-out ones; without any, each training image is compared with the others. A perfect model has
    0.01 and one that copies has more; less means nothing, since bad samples are far from all images. The interval is
    Wilson's, for this reference and its threshold. Compare only with the same extractor and reference.
    """

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("memorisation",)
    lower_is_better: ClassVar[dict[str, bool]] = {"memorisation": True}
    least: ClassVar[int] = 1
    least_reference: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {
        "memorisation": Shown(
            heading="copied",
            at_least=0.0,
            at_most=1.0,
            beside="Memorisation",
            note="Memorisation: the share of samples that are as near to a training image as the nearest 1 % of "
            "new images are. A perfect network has 0.01.",
        )
    }
    of_training: ClassVar[bool] = True

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples and (N_r, d) of the training images, optionally held_out (M, d).

        arrays: distance (N,) float32 to the nearest training image; nearest (N,) int64, its row; threshold (1,), the
        largest distance that counts; influence (N,).
        Raises ValueError for too few rows, values that are not finite and dimensions that differ.
        """
        import numpy as np

        from nag.intervals import share_interval
        from nag.metrics.neighbours import seen
        from nag.metrics.pairs import nearest

        features, trained = feature_pair(samples, reference, self.least, self.least_reference)
        x, r = seen(features, trained)
        if "held_out" in reference:
            held_out = rows(reference, "held_out", "held-out features", 1)
            if held_out.shape[1] != trained.shape[1]:
                raise ValueError(f"held-out features have {held_out.shape[1]} columns, reference {trained.shape[1]}")
            new, _ = seen(held_out, trained)
        else:
            new = r
        near, _ = nearest(new, r)
        threshold = float(np.quantile(near, PERCENT / 100))
        distance, which = nearest(x, r)
        copies = distance <= threshold
        share = float(copies.mean())
        low, high = share_interval(int(copies.sum()), len(copies))
        score = Score(value=share, low=low, high=high, extrapolated=None, reason=None)
        arrays = {"distance": distance.astype("float32"), "nearest": which, "threshold": np.array([threshold])}
        arrays["influence"] = (copies - share).astype("float32")
        return Scores(values={"memorisation": score}, arrays=arrays)
