"""Published evaluators by name: with `score: {protocol: adm}` samples are measured as that evaluator measures them.

It sets the extractor with its resize, the metrics, how many samples count and which images of the reference do. Why
the same images have another FID in each is in docs/statistics.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.errors import unknown
from orchestrator.spec.construct import MethodBuilder
from orchestrator.spec.reference_file import ADM, Published
from orchestrator.spec.yaml_nodes import Node, parse

if TYPE_CHECKING:
    from orchestrator.spec.model import Cell, ScoreSection

FULL = 50_000  # samples, as the evaluators' users take them
REDUCED = "k: 5, at_most: 10000"  # dgm-eval's --nearest_k and --reduced_n
INCEPTION_OF_ADM = f"{{name: inception, mode: {ADM}}}"


@dataclass(frozen=True)
class Evaluator:
    """features, metrics: as in a sweep. samples: `exactly` so many count, or `at_most` so many of the samples and as
    many of the reference's images; None takes all. mode: of Inception's moments in a file that does not say it.
    """

    name: str
    source: str
    features: str
    metrics: tuple[str, ...]
    samples: tuple[Literal["exactly", "at_most"], int] | None = None
    mode: str | None = None

    @property
    def most(self) -> int | None:
        """The most samples that count."""
        return self.samples[1] if self.samples else None

    @property
    def reference_images(self) -> int | None:
        """The most images of the reference that count."""
        return self.samples[1] if self.samples and self.samples[0] == "at_most" else None

    def extractor(self, methods: MethodBuilder) -> Any:
        return methods.method("features", parse(self.features, self.name))

    def listed(self, methods: MethodBuilder) -> list[Any]:
        """Its metrics."""
        return [methods.method("metrics", parse(text, self.name)) for text in self.metrics]

    def reads(self, reference: Any) -> Any:
        """The reference as this evaluator understands it."""
        unsaid = isinstance(reference, Published) and reference.named_mode is None
        return dataclasses.replace(reference, mode=self.mode) if unsaid and self.mode else reference


EVALUATORS = {
    each.name: each
    for each in (
        Evaluator(
            "adm",
            "openai/guided-diffusion, evaluations/evaluator.py",
            INCEPTION_OF_ADM,
            ("fid", "sfid", "{name: inception_score, splits: 10}", "precision_recall"),
            mode=ADM,
        ),
        Evaluator("clean_fid", "clean-fid, mode clean", "{name: inception, mode: clean}", ("fid", "kid")),
        Evaluator(
            "dgm_eval",
            "layer6ai-labs/dgm-eval",
            "dinov2",
            ("fid", "kid", f"{{name: precision_recall, {REDUCED}}}", f"{{name: density_coverage, {REDUCED}}}"),
            ("at_most", FULL),
        ),
        Evaluator("edm", "NVlabs/edm, fid.py", INCEPTION_OF_ADM, ("fid",), ("exactly", FULL), mode=ADM),
        Evaluator(
            "pytorch_fid",
            "mseitzer/pytorch-fid",
            "{name: inception, mode: legacy_pytorch}",
            ("fid",),
            mode="legacy_pytorch",
        ),
        Evaluator(
            "torch_fidelity",
            "toshas/torch-fidelity",
            INCEPTION_OF_ADM,
            ("fid", "kid", "{name: inception_score, splits: 10}", "precision_recall"),
            mode=ADM,
        ),
    )
}


def filled(node: Node) -> tuple[Evaluator | None, Node]:
    """The evaluator that a score section names, and the section with the keys that it leaves to the evaluator."""
    given = node.get("protocol")
    if given is None:
        return None, node
    if given.text() not in EVALUATORS:
        raise given.error(unknown("protocol", given.value, EVALUATORS))
    evaluator = EVALUATORS[given.value]
    if (rows := node.get("reference_rows")) is not None:
        raise rows.error(f"protocol {given.value!r} says which reference images count; remove this key or protocol.")
    texts = {"features": f"[{evaluator.features}]", "metrics": f"[{', '.join(evaluator.metrics)}]"}
    own = {key: _placed(parse(text, ""), given) for key, text in texts.items() if node.get(key) is None}
    return evaluator, dataclasses.replace(node, value={**node.value, **own})


def _placed(node: Node, place: Node) -> Node:
    """A node that is not in the file, with the place of what stands for it."""
    value = node.value
    if isinstance(value, dict):
        value = {key: _placed(child, place) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_placed(child, place) for child in value]
    return dataclasses.replace(place, value=value)


def check_methods(evaluator: Evaluator, score: ScoreSection, node: Node, builder: MethodBuilder) -> None:
    """Raise for an extractor, or for settings of a metric, that are not the evaluator's. Its weights may be anywhere,
    and other metrics may stand beside its own.
    """
    wanted, fix = evaluator.extractor(builder), f"remove it, or protocol: {evaluator.name}"
    for extractor, item in zip(score.features, node.value["features"].value, strict=True):
        if not alike(extractor, wanted):
            raise item.error(f"protocol {evaluator.name!r} measures with {evaluator.features}; {fix}.")
    for metric, item in zip(score.metrics, node.value["metrics"].value, strict=True):
        for own, text in zip(evaluator.listed(builder), evaluator.metrics, strict=True):
            if type(metric) is type(own) and metric != own:
                raise item.error(f"protocol {evaluator.name!r} measures {text}; {fix}.")


def alike(extractor: Any, wanted: Any) -> bool:
    """Whether two extractors are equal, wherever their weights are."""
    return type(extractor) is type(wanted) and dataclasses.replace(extractor, weights=wanted.weights) == wanted


def check_counts(evaluator: Evaluator, cells: Iterable[Cell], node: Node) -> None:
    """Raise if a cell has more or fewer samples than the evaluator takes."""
    if evaluator.samples is None:
        return
    rule, count = evaluator.samples
    for cell in cells:
        own = cell.sample.count
        if own > count or (rule == "exactly" and own != count):
            what = (
                f"{'exactly' if rule == 'exactly' else 'at most'} {count:,} samples, and arm {cell.arm!r} has {own:,}"
            )
            fix = f"set sample.count to {count}, or write features: [{evaluator.features}] in place of protocol"
            raise node.error(f"protocol {evaluator.name!r} takes {what}; {fix}.")
