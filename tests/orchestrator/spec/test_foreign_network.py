"""Networks of other code in whole sweeps: a foreign U-Net end to end, and what `check` says of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nag.models.adapted_module import AdaptedModule
from orchestrator.errors import BadInput, SpecError
from orchestrator.plan.make import plan
from orchestrator.spec.deep_check import check_inputs
from orchestrator.spec.reader import read_sweep
from orchestrator.spec.user_code import load, read
from tests.orchestrator.conftest import changed, run_here

ROOT = Path(__file__).parents[3]
UNET = (ROOT / "sweeps/unet.py").read_text()
SWEEP = """\
name: foreign
networks:
  unet:
    checkpoint: unet.safetensors
    model: {use: ./unet.py:UNet, width: 4}
    predicts: eps
    interpolant: vp
    time: 0..999
    data: digits
  ready:
    init: unet
    data: digits
    train: {steps: 2, batch: 8, lr: 1e-3, noise_dropout: 0.5}
  row:
    init: unet
    data: digits
    train: {steps: 2, batch: 8, lr: 1e-2, noise_dropout: 0.5, class_dropout: 0.0, only: null_noise}
network: unet
sampler: {name: ddim, steps: 2}
sample: {count: 20, block: 10}
score: {features: [pixels], metrics: [fid]}
arms:
  plain: {}
  cfg: {cfg: {scale: 1.5}}
  nag: {network: ready, nag: {scale: 0.5}}
  row: {network: row, nag: {scale: 0.5}}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A folder with the sweep, the user's class and a checkpoint of it."""
    (tmp_path / "unet.py").write_text(UNET)
    torch.manual_seed(0)
    module = load(read(tmp_path / "unet.py"), "UNet")(width=4).module((1, 8, 8), 10, null_noise=False)
    save_file(module.state_dict(), tmp_path / "unet.safetensors")
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


def test_a_foreign_u_net_end_to_end(sweep: Path, tmp_path: Path) -> None:
    """Plain, CFG by its own null class, and NAG after a fine-tune; the sampled network is the one in the file."""
    ran = run_here(sweep, tmp_path / "store")
    assert not ran.failed, ran.failed
    cells = {cell["arm"]: cell for cell in ran.document()["cells"]}
    assert [cells[arm]["network_calls"] for arm in ("plain", "cfg", "nag", "row")] == [2, 4, 4, 4]
    assert all(cell["metrics"]["fid"]["value"] > 0 for cell in cells.values())

    from orchestrator.tasks.context import Context

    context = Context(ran.store)
    context.read_plan(ran.store.list("plans")[0].removesuffix(".json"))
    trainings = {key: task.params for key, task in context.tasks.items() if task.kind == "train"}
    fields = {
        params.get("train", {}).get("fields", {}).get("lr"): context.network(key, ran.plan.sweep.precision)
        for key, params in trainings.items()
    }
    own = load(read(tmp_path / "unet.py"), "UNet")(width=4).module((1, 8, 8), 10, null_noise=False)
    from safetensors.torch import load_file

    own.load_state_dict(load_file(tmp_path / "unet.safetensors"))
    x, t, y = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 1.0]), torch.tensor([0, 4, 10])
    with torch.no_grad():
        wanted = own(x, 1000 * t - 1, y)
        torch.testing.assert_close(fields[None](x, t, y), wanted)
        torch.testing.assert_close(fields[1e-2](x, t, y), wanted)  # only its null embedding was trained
    assert isinstance(fields[1e-2].module, AdaptedModule)  # type: ignore[attr-defined]
    null = torch.full((3,), -1.0)
    assert not torch.equal(fields[1e-2](x, null, y), wanted)
    assert [fields[lr].has_null_noise for lr in (None, 1e-3, 1e-2)] == [False, True, True]
    assert [fields[lr].has_null_class for lr in (None, 1e-3, 1e-2)] == [True, True, False]


def test_it_can_be_tried_small_and_planned_without_its_file(sweep: Path, tmp_path: Path) -> None:
    """Under --smoke a short training of the same module stands in for the checkpoint; a plan needs no file."""
    (tmp_path / "unet.safetensors").unlink()
    small = read_sweep(sweep, smoke=True)
    unet = small.cells[0].network
    assert unet.checkpoint is None
    assert unet.train is not None
    assert (unet.train.class_dropout, unet.train.noise_dropout) == (0.1, 0.0)
    assert unet.convention.time == "0..999"
    assert len(plan(read_sweep(sweep)).cells) == 4


def test_check_says_what_the_header_tells(sweep: Path, tmp_path: Path) -> None:
    """Several sets are left to the names in the module, which only an import tells; a damaged file is refused."""
    file = tmp_path / "unet.safetensors"
    state = load_file(file)
    numbers = sum(weight.numel() for weight in state.values())
    [unet] = {cell.network.lineage[-1].layout for cell in read_sweep(sweep).cells}
    assert unet == f"weights of a safetensors file, {len(state)} tensors, {numbers:,} numbers"
    torch.save({"one": state, "two": state}, file)
    assert {cell.network.lineage[-1].layout for cell in read_sweep(sweep).cells} == {""}
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(SpecError, match=r"yaml:4: networks\.unet\.checkpoint: .*cut off"):
        read_sweep(sweep)


def test_check_imports_nothing_and_deep_loads_it(sweep: Path, tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n" + UNET.replace('"""The', 'x = """The', 1)
    (tmp_path / "unet.py").write_text(text.replace("from __future__ import annotations\n", ""))
    read_sweep(sweep, run_user_code=False)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "unet.py").write_text(UNET)
    words = list(check_inputs(read_sweep(sweep)))
    assert "networks.unet.checkpoint: [1, 8, 8], 10 classes, predicts eps, null class condition" in words
    sweep.write_text(changed(SWEEP, "width: 4", "width: 8"))
    with pytest.raises(BadInput, match=r"unet\.safetensors: these weights do not fit: conv_in\.weight has shape"):
        list(check_inputs(read_sweep(sweep)))


NO_NOISE = (
    "class UNet has no null noise condition: it declares neither null_noise nor time_embedding; declare "
    "time_embedding, the submodule whose output embeds the noise level (noise_dropout in a fine-tune can then teach it)"
)
NO_CLASS = (
    "class UNet has no null class condition: it declares neither null_class nor class_embedding; declare "
    "class_embedding, the submodule whose output embeds the class (class_dropout in a fine-tune can then teach it)"
)
FINE_TUNE = "{init: unet, data: ..., train: {noise_dropout: 0.1, ...}}"
BAD_SWEEPS = [
    ("0..999", "0..1000", "8: networks.unet.time: unknown time '0..1000'. Known: 0..999, 1 - t, log-sigma, sigma, t."),
    (
        "    predicts: eps\n",
        "",
        "3: networks.unet: 'predicts' is missing: velocity, eps, x0 or score.",
    ),
    (
        "time: 0..999",
        "precondition: edm",
        "6: networks.unet.predicts: precondition edm makes a velocity of its network's output; leave out predicts.",
    ),
    (
        "time: 0..999",
        "precondition: ve",
        "8: networks.unet.precondition: precondition ve does not go with time: t; it needs time: sigma or log-sigma.",
    ),
    (
        "time: 0..999\n    data: digits",
        "time: 0..999",
        "3: networks.unet: 'data' is missing; its images say the shape of the network's states.",
    ),
    (
        "time: 0..999",
        "num_classes: many",
        "8: networks.unet.num_classes: expected a whole number, at least 1, got 'many'.",
    ),
    (
        "  cfg: {cfg: {scale: 1.5}}",
        "  cfg: {nag: {scale: 1.5}}",
        "24: arms.cfg.nag: 'nag' needs a network that has learned the null noise condition: its checkpoint has not; "
        f"fine-tune it first: {FINE_TUNE}, as sweeps/nag_ready.yaml does.",
    ),
]


@pytest.mark.parametrize("run", [False, True], ids=["parsed", "imported"])
@pytest.mark.parametrize(("old", "new", "said"), BAD_SWEEPS, ids=[each[1] or each[0] for each in BAD_SWEEPS])
def test_what_does_not_fit_is_said_at_check(sweep: Path, old: str, new: str, said: str, run: bool) -> None:
    sweep.write_text(changed(SWEEP, old, new))
    with pytest.raises(SpecError) as caught:
        read_sweep(sweep, run_user_code=run)
    assert str(caught.value) == f"{sweep}:{said}"


def test_its_own_number_of_classes_counts(sweep: Path) -> None:
    """Its data say the shape, and may be of other classes."""
    icg = changed(SWEEP, "{cfg: {scale: 1.5}}", "{icg: {scale: 1.5}}")
    sweep.write_text(icg)
    read_sweep(sweep)
    sweep.write_text(changed(icg, "time: 0..999", "time: 0..999\n    num_classes: 1"))
    words = r"25: arms\.cfg\.icg: it needs another class than a sample's own, and the network has one class\."
    with pytest.raises(SpecError, match=words):
        read_sweep(sweep)


BAD_CLASSES = [
    (
        "null_class: ",
        "no_class: ",
        f"24: arms.cfg.cfg: 'cfg' needs a network that has learned the null class condition: {NO_CLASS}.",
    ),
    ('"last"', '"first"', "5: networks.unet.model: null_class of UNet must be a class number, or 'last', not 'first'."),
    ('str] = "time', 'str] = "" or "time', ""),
    (
        "time_embedding: ",
        "embedding: ",
        f"13: networks.ready.train.noise_dropout: {NO_NOISE}, or set noise_dropout: 0.",
    ),
]


@pytest.mark.parametrize("run", [False, True], ids=["parsed", "imported"])
@pytest.mark.parametrize(("old", "new", "said"), BAD_CLASSES, ids=["class", "value", "computed", "noise"])
def test_what_a_class_lacks_is_said_at_check(sweep: Path, old: str, new: str, said: str, run: bool) -> None:
    text = changed(SWEEP, "noise_dropout: 0.5}", "noise_dropout: 0.5, class_dropout: 0.0}")
    sweep.write_text(text)
    (sweep.parent / "unet.py").write_text(changed(UNET, old, new))
    if not said:
        read_sweep(sweep, run_user_code=run)
        return
    with pytest.raises(SpecError) as caught:
        read_sweep(sweep, run_user_code=run)
    assert str(caught.value) == f"{sweep}:{said}"


def test_edm_trains_too(sweep: Path, tmp_path: Path) -> None:
    """A declared preconditioning in a training from scratch, and a new network's null conditions."""
    changes = (
        *("    checkpoint: unet.safetensors\n", "", "    predicts: eps\n", "", "interpolant: vp", "interpolant: gvp"),
        *("time: 0..999", "precondition: {name: edm, sigma_data: 0.6}\n    train: {steps: 2, batch: 8}"),
        *("ddim", "heun"),
    )
    trained = changed(SWEEP, *changes)
    sweep.write_text(trained.replace("  row: {network: row, nag: {scale: 0.5}}\n", ""))
    ran = run_here(sweep, tmp_path / "store")
    assert not ran.failed, ran.failed
    definition = next(task.params for task in ran.plan.tasks.values() if "convention" in task.params)
    assert definition["convention"]["precondition"]["fields"] == {"sigma_data": 0.6}
