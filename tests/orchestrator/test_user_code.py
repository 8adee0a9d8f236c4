"""A user's own code in a sweep (`use: ./mine.py:MyGuidance`): run end to end, frozen when submitted, refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchestrator import user_code
from orchestrator.errors import BadInput
from orchestrator.export import export
from orchestrator.plan import plan
from orchestrator.spec import read_sweep
from orchestrator.store import Store
from orchestrator.tasks import block_name
from tests.orchestrator.conftest import TINY, Ran, metrics, nagbench, run_here

GUIDANCE = '''\
from typing import ClassVar

from nag.guidance import Interval, Term
from nag.registry import method


@method
class LateNAG:
    """D + w (D - D[null noise]) at levels t up to `until`, D above; w = `scale`, 0 is off."""

    scale: float
    until: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"null_noise"})
    off = property(lambda self: self.scale == 0)

    def terms(self) -> tuple[Term, ...]:
        late = Interval(high=self.until)
        return Term(False, False, self.scale, interval=late), Term(True, False, -self.scale, interval=late)
'''

# The foreign network: initial weights and dropout from torch's own generator, a buffer that is in no state dict, its
# own idea of time, and a part in a third file that is imported only when it is called.
CONVNET = """\
import torch
from torch import nn


class ConvNet(nn.Module):
    def __init__(self, channels, width, classes):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.condition = nn.Linear(1 + classes, width)
        self.dropout = nn.Dropout(0.1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        self.register_buffer("milli", torch.tensor(1e-3), persistent=False)

    def forward(self, x, timestep, classes):
        from parts.activation import act

        onehot = nn.functional.one_hot(classes, self.condition.in_features - 1).float()
        condition = self.condition(torch.cat([self.milli * timestep[:, None], onehot], dim=1))
        return self.last(self.dropout(act(self.first(x) + condition[:, :, None, None])))
"""

ADAPTER = '''\
from typing import ClassVar

from nag.registry import method
from nag.training import prediction_loss


@method
class Convolutions:
    """A ConvNet told our t as its timestep, 0 to 1000; -1000 is its null noise condition."""

    width: int = 4
    generates: ClassVar[bool] = True

    def fits(self, shape):
        pass

    def module(self, shape, num_classes, null_noise, seed=0):
        from convnet import ConvNet

        class Adapted(ConvNet):
            def forward(self, x, t, y):
                return super().forward(x, 1000 * t, y)

        return Adapted(shape[0], self.width, num_classes + 1)

    def loss(self, interpolant, predicts):
        return prediction_loss(interpolant, predicts)
'''

# As in the README: a U-Net of diffusers.
UNET = '''\
from typing import ClassVar

from nag.registry import method
from nag.training import prediction_loss


@method
class UNet:
    """UNet2DModel of diffusers. Time is t = 0 at data, 1 at noise, -1 where its level is hidden."""

    width: int = 16
    generates: ClassVar[bool] = True

    def fits(self, shape):
        if shape[1] % 2 or shape[2] % 2:
            raise ValueError(f"its two resolutions do not fit images of {shape[1]} x {shape[2]}")

    def module(self, shape, num_classes, null_noise, seed=0):
        from diffusers import UNet2DModel  # here, so that `check` and `status` need not wait for it

        class Net(UNet2DModel):
            def forward(self, x, t, y):  # y is the class, num_classes the null class
                return super().forward(x, 1000 * t, y).sample

        channels, blocks = shape[0], {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
        widths = {"block_out_channels": (self.width, 2 * self.width), "layers_per_block": 1, "norm_num_groups": 4}
        return Net(shape[1:], channels, channels, num_class_embeds=num_classes + 1, **widths, **blocks)

    def loss(self, interpolant, predicts):
        return prediction_loss(interpolant, predicts)
'''

SWEEP = """\
name: own
networks:
  conv:
    data: digits
    model: {use: ./adapter.py:Convolutions, width: 6}
    train: {steps: 8, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2, seed: {grid: [0, 1]}}
sampler: {name: euler, steps: 4}
sample: {count: 40, block: 10}
score: {features: [pixels], metrics: [fid]}
arms:
  plain: {}
  late: {late: {use: ./guidance.py:LateNAG, scale: {grid: [1.0, 2.0]}}}
  later: {late: {use: ./guidance.py:LateNAG, scale: {grid: [1.0, 2.0]}, until: 0.3}, cfg: {scale: 1.5}, against: late}
"""

FILES = {
    "sweep.yaml": SWEEP,
    "guidance.py": GUIDANCE,
    "adapter.py": ADAPTER,
    "convnet.py": CONVNET,
    "parts/activation.py": "from torch.nn.functional import silu as act\n",
}


def laid_out(folder: Path, files: dict[str, str]) -> Path:
    """The files in a folder; the sweep's path."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "sweep.yaml"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("own")
    return run_here(laid_out(folder / "sweeps", FILES), folder / "store")


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., str]:
    """`read(guidance_text, use)`: a small sweep with that guidance; what is wrong with it, or ""."""

    def made(text: str | None, use: str = "use: ./guidance.py:LateNAG, scale: 2", run: bool = True) -> str:
        laid_out(tmp_path, {"sweep.yaml": TINY.replace("plain: {}", f"plain: {{mine: {{{use}}}}}")})
        if text is not None:
            (tmp_path / "guidance.py").write_text(text)
        try:
            plan(read_sweep(tmp_path / "sweep.yaml", run_user_code=run))
        except BadInput as error:
            return str(error).replace(f"{tmp_path}/", "")
        return ""

    return made


def digests(sweep: Path) -> dict[str, str]:
    """Arm and parameters -> stream, of every cell."""
    return {c.cell.arm + json.dumps(c.cell.params): c.stream for c in plan(read_sweep(sweep)).cells}


def same_blocks(ours: Store, theirs: Store, ran: Ran) -> None:
    for digest, task in ran.plan.tasks.items():
        if task.kind == "sample":
            for number in range(ran.plan.blocks[digest]):
                one, other = (s.read_arrays(block_name(digest, number))[0]["samples"] for s in (ours, theirs))
                np.testing.assert_array_equal(one, other)


def test_it_runs_to_the_end_and_is_compared(ran: Ran) -> None:
    assert not ran.failed
    assert not ran.observer.notes
    found = ran.document()
    assert len(found["cells"]) == 2 * (1 + 2 + 2)
    assert len({json.dumps(values) for values in metrics(found).values()}) == len(found["cells"])  # each cell differs
    later = [row for row in found["comparisons"] if (row["arm"], row["metric"]) == ("later", "fid")]
    assert [(row["params"]["late.scale"], row["against_params"]["late.scale"]) for row in later] == [(1, 1), (2, 2)]


def test_three_workers_make_the_bits_of_one(ran: Ran, tmp_path: Path) -> None:
    """The real command, in processes that read the store's copy only; its report knows the guidance."""
    path = laid_out(tmp_path / "elsewhere", FILES)
    arguments = ("run", path, "--store", tmp_path / "store", "--tracking", "none", "--device", "cpu", "--workers", "3")
    done = nagbench(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    same_blocks(ran.store, Store(str(tmp_path / "store")), ran)
    again = run_here(path, tmp_path / "store")
    assert again.backend is None
    assert metrics(again.document()) == metrics(ran.document())
    assert (tmp_path / "results/reports/own/report.html").exists()


def test_what_is_queued_is_done_with_the_code_as_it_was(ran: Ran, tmp_path: Path) -> None:
    """Another process, the user's files gone: it makes the same block from the store alone."""
    shutil.copytree(ran.store.root, tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    digest = next(cell.stream for cell in ran.plan.cells if cell.cell.guidance)
    store.delete(block_name(digest, 1))
    code = f"from orchestrator.worker import run; run({store.url!r}, {digest!r}, [1])"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    same_blocks(store, ran.store, ran)


def test_a_damaged_copy_is_put_right(ran: Ran, tmp_path: Path) -> None:
    path = laid_out(tmp_path, FILES)
    planned = plan(read_sweep(path))
    store = Store(str(tmp_path / "store"))
    guidance = next(source for source, code in planned.sweep.code.items() if code.main == "guidance.py")
    store.create(f"code/{guidance}/guidance.py", GUIDANCE.replace("self.scale == 0", "True").encode())
    again = run_here(path, tmp_path / "store")
    assert not again.failed
    assert any("guidance.py is not the file that was put there" in note for note in again.observer.notes)
    assert metrics(again.document()) == metrics(ran.document())


def test_an_edit_of_the_file_or_of_what_it_imports_is_another_digest(tmp_path: Path) -> None:
    path = laid_out(tmp_path, FILES)
    first = digests(path)
    for neighbour in ("unrelated.py", "parts/unrelated.py", "notes.txt"):
        (tmp_path / neighbour).write_text("changed = True\n")
    path.write_text(SWEEP.replace("width: 6", "width: 6.0").replace("./guidance", "guidance"))
    assert digests(path) == first

    (tmp_path / "guidance.py").write_text(GUIDANCE + "\n")
    edited = digests(path)
    assert {key for key in first if first[key] == edited[key]} == {key for key in first if key.startswith("plain")}
    (tmp_path / "parts/activation.py").write_text("from torch.nn.functional import relu as act\n")
    imported = digests(path)
    assert not {key for key in first if imported[key] == edited[key]}


def test_equal_guidance_is_one_stream_whatever_it_is_called(tmp_path: Path) -> None:
    other = SWEEP.replace("late: {use", "a_name: {use").replace("cfg: {scale: 1.5}, ", "")
    first, second = (laid_out(tmp_path / name, FILES) for name in "ab")
    first.write_text(SWEEP.replace("cfg: {scale: 1.5}, ", ""))
    second.write_text(other)
    assert set(digests(first).values()) == set(digests(second).values())
    both = SWEEP.replace("  plain: {}", "  plain: {z: {use: ./guidance.py:LateNAG, scale: 1}, cfg: {scale: 1.5}}")
    first.write_text(both)
    second.write_text(both.replace("z: {use", "a: {use"))
    assert set(digests(first).values()) == set(digests(second).values())


def test_check_runs_nothing(read: Callable[..., str], tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nimport no_such_library\n{GUIDANCE}"
    assert read(text, run=False) == ""
    assert not (tmp_path / "ran").exists()
    assert read(text).endswith("guidance.py:2: ModuleNotFoundError: No module named 'no_such_library'.")
    assert (tmp_path / "ran").exists()


def test_check_reads_sweeps_of_every_family_without_running_them(tmp_path: Path) -> None:
    sweep = read_sweep(laid_out(tmp_path, EVERYTHING), run_user_code=False)
    assert len(plan(sweep).cells) == 2
    assert not any(name.startswith(user_code.PACKAGE + next(iter(sweep.code))[:16]) for name in sys.modules)


def test_two_users_files_of_one_name_never_meet(tmp_path: Path) -> None:
    before = list(sys.path)
    for folder, scale in (("a", 3.0), ("b", 5.0)):
        text = GUIDANCE.replace("self.scale, interval", "factor * self.scale, interval")
        files = {"guidance.py": f"from common.numbers import factor\n{text}", "sweep.yaml": TINY}
        files |= {"common/__init__.py": "", "common/numbers.py": f"from . import base\nfactor = {scale} * base.one\n"}
        laid_out(tmp_path / folder, files | {"common/base.py": "one = 1.0\n"})
    use = "{grid: [./a/guidance.py:LateNAG, ./b/guidance.py:LateNAG]}"
    sweep = laid_out(tmp_path, {"sweep.yaml": TINY.replace("plain: {}", f"plain: {{x: {{use: {use}, scale: 2}}}}")})
    cells = [cell for cell in read_sweep(sweep).cells if cell.arm == "plain" and cell.params["train.seed"] == 0]
    assert [cell.guidance[0].terms()[0].weight for cell in cells] == [6.0, 10.0]
    assert [cell.params["x"] for cell in cells] == ["./a/guidance.py:LateNAG", "./b/guidance.py:LateNAG"]
    assert sys.path == before
    assert "common" not in sys.modules


def test_only_what_stands_beside_the_file_is_local(tmp_path: Path) -> None:
    """Ours, Python's own and what is installed are no part of it, whatever folders are around."""
    decoys = ("nag/registry.py", "typing.py", "numpy/notes.txt", "unused.py")
    files = {"guidance.py": f"import numpy, numpy.linalg\nimport parts.one as one, parts.two\n{GUIDANCE}"}
    files |= dict.fromkeys(decoys, "raise RuntimeError\n")
    files |= {"parts/one.py": "def f():\n    import three\n", "parts/two.py": "", "three.py": "import guidance\n"}
    laid_out(tmp_path, files)
    code = user_code.read(tmp_path / "guidance.py")
    assert sorted(code.files) == ["guidance.py", "parts/one.py", "parts/two.py", "three.py"]
    user_code.load(code, "LateNAG")
    module = sys.modules[f"{user_code.PACKAGE}{code.digest[:16]}.guidance"]
    assert module.parts.two
    module.one.f()


EVERYTHING = {
    "sweep.yaml": """\
name: everything
networks:
  sit:
    data: {use: ./all.py:Blobs, classes: 4}
    model: {name: sit, hidden: 8, depth: 1, heads: 2, patch: 4}
    train: {steps: 4, batch: 16, noise_dropout: 0.2, class_dropout: 0.2}
  ft: {init: sit, data: {use: ./all.py:Blobs, classes: 4}, train: {steps: 2, batch: 16}}
sampler: {use: ./all.py:Thirds, steps: 2}
sample: {count: 20, block: 10}
score:
  features: [{use: ./all.py:Means}, pixels]
  metrics: [{use: ./all.py:Gap, power: 2}, fid]
arms:
  plain: {network: sit}
  tuned: {network: ft, sampler: {times: [0.5, 0.1]}}
""",
    "all.py": '''\
from typing import ClassVar

from nag.datasets import ArraySplit
from nag.metrics import Scores, plain
from nag.registry import Int, method
from nag.samplers.stepping import march, velocity


@method
class Blobs:
    """Class c is a bright square at c."""

    classes: Int = 3
    shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    stores: ClassVar[str] = "pixels"

    @property
    def num_classes(self):
        return self.classes

    def open(self, split):
        import numpy as np

        labels = np.arange(60 if split == "train" else 30) % self.classes
        rows, columns = np.indices((8, 8))
        return ArraySplit(np.where(rows // 2 == labels[:, None, None], 1.0, -1.0)[:, None], labels)


@method
class Thirds:
    steps: Int
    times: tuple[float, ...] = ()

    def network_calls(self):
        return self.steps + len(self.times)

    def __call__(self, field, y, noise, *, observe=None):
        grid = sorted({1.0, 0.0, *self.times, *(k / self.steps for k in range(self.steps))}, reverse=True)
        return march(self, field, y, noise, grid, observe)

    def step(self, field, x, y, t, t_next, draw):
        return x + (t_next - t) * velocity(field, x, y, t)


@method
class Means:
    outputs: ClassVar[tuple[str, ...]] = ("features", "rows")
    trained: ClassVar[bool] = True

    def train(self, split, report):
        import torch

        report(1, 1)
        return {"mean": torch.from_numpy(split.images(range(len(split)))).mean(dim=0)}

    def open(self, state, device="cpu"):
        def extract(images):
            rows = (images.to(device).float() / 127.5 - 1 - state["mean"].to(device)).mean(dim=3).flatten(1)
            return {"features": rows[:, :3], "rows": rows}

        return extract


@method
class Gap:
    power: Int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"rows"})
    names: ClassVar[tuple[str, ...]] = ("gap",)
    lower_is_better: ClassVar[dict[str, bool]] = {"gap": True}
    least: ClassVar[int] = 2
    extrapolates: ClassVar[bool] = False

    def __call__(self, samples, reference):
        gap = abs(samples["rows"].mean(0) - reference["rows"].mean(0)) ** self.power
        return Scores(values={"gap": plain(float(gap.sum()))}, arrays={})
''',
}


def test_every_family_can_be_the_users_own(tmp_path: Path) -> None:
    ran = run_here(laid_out(tmp_path, EVERYTHING), tmp_path / "store")
    assert not ran.failed
    cells = {cell["arm"]: cell for cell in ran.document()["cells"]}
    assert set(cells["plain"]["metrics"]) == {"gap", "fid", "fid_pixels", "fid_held_out", "fid_held_out_pixels"}
    assert cells["plain"]["params"]["sampler"] == "./all.py:Thirds"
    assert [cells[arm]["network_calls"] for arm in ("plain", "tuned")] == [2, 3]
    assert cells["plain"]["metrics"]["gap"]["value"] > 0


def test_a_sweep_with_the_users_own_can_be_tried_small(tmp_path: Path) -> None:
    sweep = read_sweep(laid_out(tmp_path, EVERYTHING), smoke=True)
    assert sweep.cells[0].sample.count == 32
    assert sweep.cells[0].sampler.steps == 2


def test_an_adapter_of_diffusers_u_net(tmp_path: Path) -> None:
    """The adapter that the README shows."""
    text = SWEEP.replace("./adapter.py:Convolutions, width: 6", "./unet.py:UNet, width: 4")
    text = text.replace("steps: 8", "steps: 2").replace("{grid: [0, 1]}", "0").replace("{grid: [1.0, 2.0]}", "1.0")
    files = {"sweep.yaml": text, "unet.py": UNET, "guidance.py": GUIDANCE}
    ran = run_here(laid_out(tmp_path, files), tmp_path / "store")
    assert not ran.failed
    assert [cell["network_calls"] for cell in ran.document()["cells"]] == [4, 6, 9]


def test_a_training_of_a_foreign_network_resumes_bit_by_bit(tmp_path: Path) -> None:
    """Its dropout draws from torch's generator, which is what it was afterwards."""
    import torch

    from nag.datasets.digits import Digits
    from nag.interpolants import Linear
    from nag.models import seeded
    from nag.training import Training, train

    laid_out(tmp_path, FILES)
    model = user_code.load(user_code.read(tmp_path / "adapter.py"), "Convolutions")()
    kept: dict[int, bytes] = {}

    def trained(**options: object) -> dict[str, torch.Tensor]:
        with seeded(1):
            module = model.module((1, 8, 8), 10, null_noise=True)
        training, loss = Training(steps=6, batch=8, lr=1e-2), model.loss(Linear(), "velocity")
        return train(module, Digits().open("train"), training, loss=loss, num_classes=10, **options)  # type: ignore[arg-type]

    whole = trained(due=lambda: True, save=kept.__setitem__)
    state = torch.random.get_rng_state()
    torch.rand(3)
    moved = torch.random.get_rng_state()
    resumed = trained(resume=kept[3])
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert torch.equal(torch.random.get_rng_state(), moved)
    assert not torch.equal(state, moved)


def test_an_export_can_be_repeated(ran: Ran, tmp_path: Path) -> None:
    export(ran.plan, ran.store, tmp_path / "out.zip")
    shutil.unpack_archive(tmp_path / "out.zip", tmp_path)
    assert digests(tmp_path / "own/sweep.yaml") == digests(Path(ran.plan.sweep.path))


def test_its_network_is_of_no_use_without_the_code(ran: Ran, tmp_path: Path) -> None:
    from nag import load_network

    digest = next(digest for digest, task in ran.plan.tasks.items() if task.kind == "train")
    path = Path(ran.store.path(f"files/{digest}/network.safetensors"))
    with pytest.raises(ValueError, match=r"network\.safetensors: its model 'Convolutions' is of somebody's own code"):
        load_network(path)
    text = TINY.replace("  sit:\n", f"  old: {{checkpoint: {path}}}\n  sit:\n", 1)
    with pytest.raises(BadInput, match="its model 'Convolutions' is somebody's own code; only the sweep that trained"):
        read_sweep(laid_out(tmp_path, {"sweep.yaml": text}))


def test_a_failure_on_the_way_names_the_line(tmp_path: Path) -> None:
    text = CONVNET.replace("act(self.first(x)", "act(self.fist(x)")
    ran = run_here(laid_out(tmp_path, FILES | {"convnet.py": text}), tmp_path / "store")
    reasons = set(ran.failed.values())
    assert len(reasons) == 1
    assert reasons.pop().endswith("convnet.py:19: AttributeError: 'Adapted' object has no attribute 'fist'")


AT = "sweep.yaml:11: arms.plain.mine"
LACKS = "lacks terms (a method that gives a tuple of nag.guidance.Term); every class for guidance has that."
LINE = GUIDANCE.splitlines().index("class LateNAG:") + 1

BAD = [
    (None, f"{AT}.use: guidance.py: there is no such file."),
    ("class LateNAG\n", f"{AT}.use: guidance.py:1: this is not Python: expected ':'."),
    ("x = 1\n" * 3 + "'\n", f"{AT}.use: guidance.py:4: this is not Python: unterminated string literal"),
    (
        GUIDANCE.replace("LateNAG", "LateNag"),
        f"{AT}.use: guidance.py: unknown class 'LateNAG'. Did you mean 'LateNag'?",
    ),
    ("from nag.guidance.nag import NAG as LateNAG\n", f"{AT}.use: guidance.py: unknown class 'LateNAG'. Known: none."),
    (GUIDANCE.replace("def terms", "def term"), f"{AT}.use: guidance.py:{LINE}: it {LACKS}"),
]

BAD_WHEN_RUN = [
    ("from helper import x\n" + GUIDANCE, f"{AT}.use: guidance.py:1: ModuleNotFoundError: No module named 'helper'."),
    ("import sys\nsys.exit(3)\n" + GUIDANCE, f"{AT}.use: guidance.py:2: SystemExit: 3."),
    (GUIDANCE.replace("@method", ""), f"{AT}.use: guidance.py: 'LateNAG' is no method: put @method above it"),
    (GUIDANCE.replace("def terms", "def term").replace("NAG:", "NAG(object):"), f"{AT}.use: it {LACKS}"),
    (
        GUIDANCE.replace('"null_noise"', '"null"'),
        f"{AT}.use: needs of a class for guidance must be a frozenset of null",
    ),
    (
        GUIDANCE.replace("late = ", "late = self.x"),
        f"{AT}.use: guidance.py:17: AttributeError: 'LateNAG' object has no",
    ),
    (GUIDANCE.replace("scale: float", "scale: float\n    w: int"), f"{AT}: 'w' is missing; it is a whole number."),
]

BAD_FIELDS = [
    ("use: ./guidance.py:LateNAG, scal: 2", f"{AT}: unknown key 'scal'. Did you mean 'scale'? Known: scale, until."),
    ("use: ./guidance.py:LateNAG, scale: off", f"{AT}.scale: expected a number, got 'off'. Only true and false are"),
    ("use: ./guidance.py:LateNAG", f"{AT}: 'scale' is missing; it is a number."),
    ("use: ./guidance.py, scale: 2", f"{AT}.use: expected a file and a class in it, such as ./mine.py:MyClass, got"),
    ("use: ./guidence.py:LateNAG", f"{AT}.use: guidence.py: there is no such file. Did you mean 'guidance.py'?"),
    ("use: ./folder.py:LateNAG", f"{AT}.use: folder.py: it is a directory."),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_bad_file_is_refused_at_check(read: Callable[..., str], text: str | None, expected: str) -> None:
    for run in (False, True):
        message = read(text, run=run)
        assert message.startswith(expected)
        assert "\n" not in message


@pytest.mark.parametrize(("text", "expected"), BAD_WHEN_RUN)
def test_what_only_running_shows_is_refused_then(read: Callable[..., str], text: str, expected: str) -> None:
    assert read(text, run=False) == ""
    message = read(text)
    assert message.startswith(expected)
    assert "\n" not in message


@pytest.mark.parametrize(("use", "expected"), BAD_FIELDS)
def test_bad_fields_and_paths(read: Callable[..., str], tmp_path: Path, use: str, expected: str) -> None:
    (tmp_path / "folder.py").mkdir()
    assert read(GUIDANCE, use).startswith(expected)
