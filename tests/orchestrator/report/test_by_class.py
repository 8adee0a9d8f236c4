"""Values by class, from a sweep to record, JSON, page, Markdown and MLflow; what cannot be had by class is said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nag.metrics.fid_by_class import FIDByClass
from nag.metrics.metric import ByClass
from orchestrator.errors import BadInput
from orchestrator.plan import score_images
from orchestrator.plan.stored_plan import plan_of_sweep
from orchestrator.report.by_class import sides, tables
from orchestrator.report.comparisons import compare
from orchestrator.report.estimates import chosen
from orchestrator.report.figures import classes as figure
from orchestrator.report.results import collect
from orchestrator.report.write import write_report
from orchestrator.spec.data_notes import told
from orchestrator.spec.reader import read_sweep
from orchestrator.store.arrays import unpack
from orchestrator.store.layout import block_name, file_name
from orchestrator.tasks.class_pictures import EACH, PICTURES, extremes
from orchestrator.tracking.runs import runs
from tests.nag.test_autoencoder import make
from tests.orchestrator.conftest import Ran, run_here
from tests.orchestrator.made_images import FOLDER, picture_folder, written

NAMES = ("ant", "bee", "cat")
BY_CLASS = "[fid, {name: fid_by_class, directions: 3}, coverage_by_class, label_balance]"
SWEEP = (
    FOLDER.replace("[kid]", BY_CLASS)
    .replace("count: 24", "count: 48")
    .replace("  plain: {}", "  plain: {}\n  nag: {nag: {scale: 0.5}}")
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("by_class")
    picture_folder(folder / "data", NAMES, each=16)
    found = run_here(written(folder, SWEEP), folder / "store")
    assert not found.failed
    return found


def test_the_record_has_what_the_metric_says_of_the_cells_images(ran: Ran) -> None:
    results = collect(ran.plan, ran.store)
    [planned, *_], [cell, *_] = ran.plan.cells, results.cells
    blocks = [ran.store.read_arrays(block_name(planned.extracts[0], number))[0] for number in range(6)]
    samples = {name: np.concatenate([block[name] for block in blocks]) for name in ("features", "labels")}
    task = ran.plan.tasks[cell.scores["fid_by_class"]["task"]].params["reference"]
    reference = {
        name: unpack(ran.store.read(file_name(task, f"train.{name}.0000.safetensors")))[0][name]
        for name in ("features", "labels")
    }
    direct = FIDByClass(directions=3)(samples, reference)
    assert cell.by_class["fid_by_class"]["values"] == direct["by_class"]["values"]
    assert cell.scores["fid_by_class"]["score"] == direct["values"]["fid_by_class"]
    assert cell.by_class.keys() == {"fid_by_class", "coverage_by_class", "fid_balanced"}


def test_json_has_every_class_by_name_and_mlflow_the_summary(ran: Ran, tmp_path: Path) -> None:
    found = ran.document()["cells"][0]
    table = found["by_class"]["fid_by_class"]
    assert table["classes"] == list(NAMES)
    assert len(table["values"]["fid_by_class"]) == len(table["samples"]) == 3
    assert sum(table["samples"]) == 48
    values = [value for value in table["values"]["fid_by_class"] if value is not None]
    assert found["metrics"]["fid_by_class"]["value"] == pytest.approx(sum(values) / len(values))
    assert found["metrics"]["fid_worst_class"]["value"] == max(values)
    logged = next(run for run in runs(collect(ran.plan, ran.store), ran.store, tmp_path) if run.tags["kind"] == "cell")
    names = {name for name, *_ in logged.points}
    assert {"fid_by_class", "fid_worst_class", "coverage_by_class", "recall_worst_class", "label_imbalance"} <= names
    assert not any("ant" in re.split(r"\W", name) for name in names)


def test_the_report_shows_the_worst_and_the_best_classes_with_pictures(ran: Ran, tmp_path: Path) -> None:
    """From the store alone: the YAML and its images are not needed."""
    results = collect(plan_of_sweep(ran.store, "pictures"), ran.store)
    page = write_report(results, compare(results, ran.store), ran.store, tmp_path, "nagbench run x.yaml")
    for text in (page.read_text(), (tmp_path / "report.md").read_text()):
        for words in ("By class", "by class: the worst and the best classes", "Labels of the samples", "worst 1"):
            assert words in text, words
        assert all(name in text for name in NAMES)
    for arm in ("plain", "nag"):
        for key in ("fid_by_class", "coverage_by_class"):
            drawn = (tmp_path / "figures" / f"by_class_{key}_{arm}.svg").read_text()
            assert drawn.count("<image") == 2 * 2  # of the worst and the best classes, samples and real images
            assert "real images" in drawn
    assert not figure.notes(results, chosen(results), ran.store)
    tex = (tmp_path / "tables.tex").read_text()
    for caption in ("by class: the worst and the best classes", "Labels of the samples against the reference's"):
        assert rf"{caption}}}" in tex
    ranked = next(part for part in tex.split(r"\begin{table}") if "by class: the worst" in part)
    assert "worst 1 & " in ranked
    assert any(rf"& {name} {{\scriptsize " in ranked for name in NAMES)


def test_the_pictures_are_the_first_images_of_the_class(ran: Ran) -> None:
    results = collect(ran.plan, ran.store)
    planned, cell = ran.plan.cells[0], results.cells[0]
    table = cell.by_class["coverage_by_class"]
    arrays = unpack(ran.store.read(file_name(table["task"], PICTURES)))[0]
    blocks = [ran.store.read_arrays(block_name(planned.stream, number))[0] for number in range(6)]
    samples, labels = (np.concatenate([block[name] for block in blocks]) for name in ("samples", "labels"))
    real = ran.plan.sweep.cells[0].network.data.open("train")
    for place in (place for places in extremes(table) for place in places):
        label = table["labels"][place]
        np.testing.assert_array_equal(arrays["samples"][arrays["of_samples"] == label], samples[labels == label][:EACH])
        rows = np.flatnonzero(real.labels(np.arange(len(real))) == label)[:EACH]
        expected = np.round((real.images(rows) + 1) * 127.5).astype(np.uint8)
        np.testing.assert_array_equal(arrays["real"][arrays["of_real"] == label], expected)


def test_the_worst_and_the_best_do_not_meet() -> None:
    def table(*values: float | None, lower: bool = True) -> ByClass:
        count = [0] * len(values)
        return ByClass(
            labels=[*range(len(values))],
            samples=count,
            reference=count,
            values={"x": [*values]},
            ranks="x",
            lower_is_better=lower,
            left_out=None,
        )

    assert extremes(table(3.0, None, 1.0, 2.0)) == ([0], [2])
    assert extremes(table(3.0, 1.0, 2.0, 4.0, lower=False)) == ([1, 2], [3, 0])
    assert extremes(table(1.0, None)) == ([0], [])
    assert extremes(table(None)) == ([], [])
    worst, best = extremes(table(*map(float, range(1000))))
    assert worst == [*range(999, 989, -1)]
    assert best == [*range(10)]


def test_an_imbalance_is_told_apart_in_the_report(ran: Ran) -> None:
    results = collect(ran.plan, ran.store)
    balance = tables(results, sides(results, chosen(results)))[-1]
    assert balance.title == "Labels of the samples against the reference's"
    cell = results.of("plain")[0]
    known = [cell.value(name) for name in ("label_imbalance", "fid", "fid_balanced")]
    shown = [float(one.text.replace("−", "-").replace("+", "")) for one in balance.rows[0].cells[1:5]]
    assert shown[:3] == pytest.approx(known, rel=0.01)
    assert shown[3] == pytest.approx(known[1] - known[2], rel=0.01)  # type: ignore[operator]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    """A class with fewer reference images than k: the others are scored, and the report says which one is missing."""
    picture_folder(tmp_path / "data", NAMES[:2], each=16)
    picture_folder(tmp_path / "more", NAMES[2:], each=4)
    (tmp_path / "more" / "cat").rename(tmp_path / "data" / "cat")
    changes = ("[kid]", "[{name: coverage_by_class, k: 4}]", "count: 24", "count: 48")
    ran = run_here(written(tmp_path, FOLDER, *changes), tmp_path / "store")
    assert not ran.failed
    results = collect(ran.plan, ran.store)
    table = results.cells[0].by_class["coverage_by_class"]
    assert table["values"]["coverage_by_class"][2] is None
    assert re.match(r"1 of 3 classes left out, as 5 of both are needed: class 2 has \d+ samples and", table["left_out"])
    page = write_report(results, [], ran.store, tmp_path / "report", "nagbench run x.yaml")
    assert "1 of 3 classes left out, as 5 of both are needed" in page.read_text()


def test_pictures_that_are_gone_are_said(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data", NAMES)
    text = FOLDER.replace("[kid]", "[coverage_by_class]") + "keep: scores\n"
    ran = run_here(written(tmp_path, text.replace("count: 24", "count: 48")), tmp_path / "store")
    results = collect(ran.plan, ran.store)
    assert figure.notes(results, chosen(results), ran.store) == [
        "plain, coverage by class: the pictures are no longer in the store"
    ]
    page = write_report(results, [], ran.store, tmp_path / "report", "nagbench run x.yaml")
    assert "the pictures are no longer in the store." in page.read_text()


LATENTS = """\
name: latents
networks:
  sit:
    data: {name: npz, path: latents.npz}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 2}
    train: {steps: 2, batch: 8, lr: 1e-2, class_dropout: 0.2}
sampler: {name: euler, steps: 1}
sample: {count: 5000, block: 1000, labels: balanced}
score:
  features: [pixels]
  metrics: [{name: coverage_by_class, k: 1}]
  reference: {name: made_up, classes: 1000, images: 4000, resolution: 16}
  decode: {path: vae}
arms:
  plain: {}
"""


def test_of_a_thousand_classes_of_latents_only_those_that_are_shown_are_decoded_for_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers", reason="the latents extra is not installed")
    from orchestrator.tasks import class_pictures

    rng = np.random.default_rng(0)
    latents = rng.normal(size=(1000, 4, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "latents.npz", arr_0=latents, arr_1=np.arange(1000))
    make(tmp_path / "vae")
    decoded, decoded_by = [], class_pictures.extract.decoded_by

    def counted(context, decode, latents):  # type: ignore[no-untyped-def]
        decoded.append(len(latents))
        return decoded_by(context, decode, latents)

    monkeypatch.setattr(class_pictures.extract, "decoded_by", counted)
    ran = run_here(written(tmp_path, LATENTS), tmp_path / "store")
    assert not ran.failed
    assert decoded[:5] == [1000] * 5  # for the features
    assert decoded[5:] == [20 * EACH]
    results = collect(ran.plan, ran.store)
    [drawing] = figure.drawings(results, chosen(results), ran.store)
    grids = [axes.images[0].get_array() for axes in drawing.figure.axes]
    assert [grid.shape for grid in grids] == [(10 * 70, EACH * 70, 4)] * 4  # pictures of 64 pixels, 6 between them
    assert [int((grid[::70, ::70, 3] == 255).sum()) for grid in grids] == [10 * EACH] * 4
    table = ran.document()["cells"][0]["by_class"]["coverage_by_class"]
    assert len(table["classes"]) == 1000


# What `check` can know


@pytest.mark.parametrize(
    ("metric", "changes", "message"),
    [
        (
            "fid_by_class",
            ("path: data", "path: flat"),
            "'fid_by_class' goes by class, and the images of 'image_folder' have no labels; give each class a folder, "
            "or add a dataset.json with labels.",
        ),
        (
            "coverage_by_class",
            ("[coverage_by_class]", "[coverage_by_class], reference: images.npz"),
            "'coverage_by_class' goes by class, and a published file has no labels; compare with a data set, "
            "{name: image_folder, path: ...}.",
        ),
        (
            "{name: coverage_by_class, k: 9}",
            (),
            "'coverage_by_class' needs at least 10 samples of a class, and 24 samples of 3 classes are 8 each; raise "
            "sample.count to 30 or more.",
        ),
        (
            "{name: fid_by_class, directions: 13}",
            ("count: 24", "count: 60"),
            "'fid_by_class' needs at least 14 reference images of a class, and the largest class of 'image_folder' has "
            "13 among the first 50,000; give more images, or raise reference_rows.",
        ),
        (
            "label_balance",
            ("[label_balance]", "[label_balance], reference: {name: image_folder, path: two, resolution: 8}"),
            "'label_balance' goes by class, but network 'sit' has 3 classes, its reference 2.",
        ),
    ],
)
def test_labels_and_numbers_that_do_not_suffice_are_refused(
    tmp_path: Path, metric: str, changes: tuple[str, ...], message: str
) -> None:
    picture_folder(tmp_path / "data", NAMES, each=16)
    picture_folder(tmp_path / "two", NAMES[:2], each=16)
    picture_folder(tmp_path / "flat", ("one",), each=16)
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((30, 8, 8, 3), np.uint8))
    path = written(tmp_path, FOLDER.replace("[kid]", f"[{metric}]"), *changes)
    with pytest.raises(BadInput) as caught:
        read_sweep(path)
    assert str(caught.value) == f"{path}:9: score: {message}"


def test_a_smoke_run_may_have_too_few_samples(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data", NAMES, each=16)
    path = written(tmp_path, FOLDER.replace("[kid]", "[{name: coverage_by_class, k: 9}, label_balance]"))
    assert len(read_sweep(path, smoke=True).cells) == 1


def test_check_tells_of_too_few_samples_for_the_columns(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data", NAMES, each=16)
    lines, _ = told(read_sweep(written(tmp_path, FOLDER.replace("[kid]", "[fid_by_class]"))))
    assert lines[-1] == (
        "score: 'fid_by_class' on 'pixels': 8 samples a class do not suffice for its 192 columns, unless they span "
        "fewer dimensions; give directions: 2"
    )


def test_folders_are_scored_by_class_if_their_classes_are_alike(tmp_path: Path) -> None:
    for name, classes in (("data", NAMES), ("alike", NAMES), ("other", ("ant", "bee", "dog"))):
        picture_folder(tmp_path / name, classes)
    picture_folder(tmp_path / "flat", ("one",))
    planned = score_images.planned(str(tmp_path / "alike"), str(tmp_path / "data"), ["pixels"], ["coverage_by_class"])
    assert [scored.metric.name for _, scores in planned.floors for scored in scores] == ["coverage_by_class"]
    for folder, words in (
        ("other", "the classes differ: ant, bee, dog; 3 in all against ant, bee, cat; 3 in all"),
        ("flat/one", "have no labels"),
    ):
        with pytest.raises(BadInput, match=f"--metrics: 'coverage_by_class' goes by class, and .*{words}"):
            score_images.planned(str(tmp_path / folder), str(tmp_path / "data"), ["pixels"], ["coverage_by_class"])
