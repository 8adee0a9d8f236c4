"""Authenticity: the share of samples that are not nearer to a training image than its own neighbour is (Alaa et al.,
ICML 2022, section 2.3; AuthPct of Stein et al. 2023 is 100 times this share).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics.metric import Metric, Score, Scores, Shown, feature_pair
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np


@method
class Authenticity(Metric):
    """A sample is authentic if its nearest training image has another training image that is nearer.

    A network that copies is near 0; real images that were not trained on score about 0.5 in theory, and more in high
    dimensions, where a few training images are nearest to many. So 1 is not the aim: compare with the held-out images,
    which the report scores beside the cells. The interval is Wilson's, for these training images. Compare with the same
    extractor and training images only.
    """

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("authenticity",)
    lower_is_better: ClassVar[dict[str, bool]] = {"authenticity": False}
    least: ClassVar[int] = 1
    least_reference: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {
        "authenticity": Shown(
            heading="auth.",
            at_least=0.0,
            at_most=1.0,
            beside="Authenticity",
            note="Authenticity: the share of samples whose nearest training image has a nearer training image. Copies "
            "lower it; that of held-out images is as good as it should be.",
        )
    }
    of_training: ClassVar[bool] = True

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples and (N_r, d) of the training images; arrays: influence (N,) float32.

        Raises ValueError below two training images, for values that are not finite and dimensions that differ.
        """
        from nag.intervals import share_interval
        from nag.metrics.neighbours import seen
        from nag.metrics.pairs import nearest

        features, trained = feature_pair(samples, reference, self.least, self.least_reference)
        x, r = seen(features, trained)
        distance, which = nearest(x, r)
        authentic = nearest(r, r)[0][which] < distance
        share = float(authentic.mean())
        low, high = share_interval(int(authentic.sum()), len(authentic))
        score = Score(value=share, low=low, high=high, extrapolated=None, reason=None)
        return Scores(values={"authenticity": score}, arrays={"influence": (authentic - share).astype("float32")})
