"""A user's own code in a sweep (`use: ./mine.py:MyGuidance`): runs end to end, and is frozen when submitted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import BadInput
from orchestrator.plan.make import plan
from orchestrator.report.archive import export
from orchestrator.spec import user_code
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import TINY, Ran, metrics, nagbench, run_here
from tests.orchestrator.users_files import CONVNET, EVERYTHING, FILES, GUIDANCE, SWEEP, UNET, laid_out


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("own")
    return run_here(laid_out(folder / "sweeps", FILES), folder / "store")


def digests(sweep: Path) -> dict[str, str]:
    """The stream of every cell, by arm and parameters."""
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


def test_a_worker_makes_the_same_bits(ran: Ran, tmp_path: Path) -> None:
    """The real command, in a process that reads the store's copy only; its report knows the guidance."""
    path = laid_out(tmp_path / "elsewhere", FILES)
    arguments = ("run", path, "--store", tmp_path / "store", "--tracking", "none", "--device", "cpu", "--workers", "1")
    done = nagbench(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    same_blocks(ran.store, Store(str(tmp_path / "store")), ran)
    again = run_here(path, tmp_path / "store")
    assert again.backend is None
    assert metrics(again.document()) == metrics(ran.document())
    assert (tmp_path / "store-reports/own/report.html").exists()


def test_what_is_queued_is_done_with_the_code_as_it_was(ran: Ran, tmp_path: Path) -> None:
    """Another process makes the same block from the store alone, without the user's files."""
    shutil.copytree(ran.store.root, tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    digest = next(cell.stream for cell in ran.plan.cells if cell.cell.guidance)
    store.delete(block_name(digest, 1))
    code = f"from orchestrator.execution.worker import run; run({store.url!r}, {digest!r}, [1])"
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
    assert any("guidance.py was not what this sweep put there" in note for note in again.observer.notes)
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


def test_a_guidance_of_ones_own_can_be_nested(tmp_path: Path) -> None:
    both = "{late: {use: ./guidance.py:LateNAG, scale: 1}, cfg: {scale: 1.5}%s}"
    arms = f"  plain: {{}}\n  sum: {both % ''}\n  nested: {both % ', compose: nested'}"
    path = laid_out(tmp_path, FILES | {"sweep.yaml": SWEEP.replace("  plain: {}", arms)})
    found = {cell.cell.arm: cell.stream for cell in plan(read_sweep(path)).cells}
    assert found["nested"] != found["sum"]
    assert len(plan(read_sweep(path, run_user_code=False)).cells) == len(plan(read_sweep(path)).cells)


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
    """nagbench, the standard library and installed packages are not part of it, whatever folders are around."""
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
    """Its dropout uses torch's generator, whose state is restored."""
    import torch

    from nag.datasets.digits import Digits
    from nag.interpolants import Linear
    from nag.seeding import seeded
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
    with pytest.raises(ValueError, match=r"network\.safetensors: its model 'Convolutions' is user code"):
        load_network(path)
    text = TINY.replace("  sit:\n", f"  old: {{checkpoint: {path}}}\n  sit:\n", 1)
    with pytest.raises(BadInput, match="its model 'Convolutions' is a user's own code; only the sweep that trained"):
        read_sweep(laid_out(tmp_path, {"sweep.yaml": text}))


def test_a_failure_on_the_way_names_the_line(tmp_path: Path) -> None:
    text = CONVNET.replace("act(self.first(x)", "act(self.fist(x)")
    ran = run_here(laid_out(tmp_path, FILES | {"convnet.py": text}), tmp_path / "store")
    reasons = set(ran.failed.values())
    assert len(reasons) == 1
    assert reasons.pop().endswith("convnet.py:19: AttributeError: 'Adapted' object has no attribute 'fist'")
