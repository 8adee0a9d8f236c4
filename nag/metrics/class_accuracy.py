"""How often the extractor's classifier predicts the label."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.metrics.metric import Metric, Scores, Shown, plain
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np


@method
class ClassAccuracy(Metric):
    """Share of samples whose largest logit is that of the label. It ignores quality and diversity within a class."""

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})
    names: ClassVar[tuple[str, ...]] = ("class_accuracy",)
    lower_is_better: ClassVar[dict[str, bool]] = {"class_accuracy": False}
    least: ClassVar[int] = 1
    extrapolates: ClassVar[bool] = False
    shown: ClassVar[dict[str, Shown]] = {"class_accuracy": Shown(heading="class\naccur.", at_least=0.0, at_most=1.0)}

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """logits (N, classes) and labels (N,) of the samples; the reference is not used.

        Raises ValueError for shapes that do not fit, logits that are not finite and labels outside the classes.
        """
        import numpy as np

        from nag.metrics.moments import check_features

        logits, labels = samples["logits"], samples["labels"]
        check_features(logits, "logits")
        if len(logits) == 0 or labels.shape != logits.shape[:1]:
            raise ValueError(f"logits must be (N, classes) and labels (N,); got {logits.shape} and {labels.shape}")
        if labels.min() < 0 or labels.max() >= logits.shape[1]:
            raise ValueError(f"labels run from {labels.min()} to {labels.max()}; there are {logits.shape[1]} logits")
        right = np.count_nonzero(logits.argmax(axis=1) == labels)
        return Scores(values={"class_accuracy": plain(right / len(labels))}, arrays={})
