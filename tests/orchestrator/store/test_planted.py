"""A store that others can write to: what they plant there is never run, whatever file it is put into.

Every plant would write a marker file if any of it ran. What is allowed: a wrong result, a plant that is set aside and
made again, or one sentence of refusal.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load, save

from nag.checkpoint import KEY, metadata
from orchestrator.errors import CorruptFile, EnvironmentProblem
from orchestrator.execution import worker
from orchestrator.identity import canonical, checksum, content
from orchestrator.plan.make import plan
from orchestrator.plan.stored_plan import document as document_of
from orchestrator.plan.stored_plan import plan_checksum, read_plan
from orchestrator.spec.reader import read_sweep
from orchestrator.spec.user_code import Code
from orchestrator.store.arrays import pack
from orchestrator.store.layout import block_name, code_name, code_record, plan_name
from orchestrator.store.store import Store
from orchestrator.tasks import assets, stored
from orchestrator.tasks.context import Context, Options
from orchestrator.tasks.task import Task
from tests.orchestrator.conftest import TINY, Ran, changed, metrics, nagbench, run_here
from tests.orchestrator.users_files import FILES, laid_out

MODEL = """\
from typing import ClassVar
from nag.registry import method
from nag.training import prediction_loss
open({marker!r}, "a").write("model ran\\n")

@method
class {name}:
    width: int = 4
    generates: ClassVar[bool] = True
    def fits(self, shape): pass
    def module(self, shape, num_classes, null_noise, seed=0):
        import torch
        return torch.nn.Identity()
    def loss(self, interpolant, predicts): return prediction_loss(interpolant, predicts)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A finished sweep with a network and a guidance of the user's."""
    folder = tmp_path_factory.mktemp("own")
    return run_here(laid_out(folder / "sweeps", FILES), folder / "store")


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "it ran"
    yield path
    assert not path.exists(), path.read_text()


@pytest.fixture
def store(own: Ran, tmp_path: Path) -> Store:
    """A copy of the finished store without scores, samples and features, which have to be made again."""
    ignored = shutil.ignore_patterns("score", "blocks", "logs")
    return Store(str(shutil.copytree(own.store.root, tmp_path / "store", ignore=ignored)))


def overwrite(store: Store, name: str, data: bytes) -> None:
    path = Path(store.path(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def sealed(record: dict[str, Any]) -> bytes:
    return (canonical({**record, "checksum": checksum(canonical(record).encode())}) + "\n").encode()


def evil(marker: Path, name: str = "Convolutions", main: str = "adapter.py") -> Code:
    return Code(main, {main: MODEL.format(marker=str(marker), name=name).encode()}, "evil")


def plant_code(store: Store, source: str, code: Code) -> None:
    """Put other code under a digest, with a manifest that matches it."""
    shutil.rmtree(store.path(f"code/{source}"), ignore_errors=True)
    for path, data in code.files.items():
        overwrite(store, code_name(source, path), data)
    overwrite(store, code_record(source), sealed(code.manifest))


def described(store: Store, digest: str, model: dict[str, Any]) -> None:
    """Make a finished training of a network whose file describes another model."""
    data = store.read(f"files/{digest}/network.safetensors")
    header = json.loads(metadata(data)[KEY])
    header["network"]["model"] = model
    planted = save(load(data), metadata={KEY: json.dumps(header)})
    overwrite(store, f"files/{digest}/network.safetensors", planted)
    record = store.read_record(f"records/train/{digest}.json")
    record["files"]["network.safetensors"] = checksum(planted)
    overwrite(store, f"records/train/{digest}.json", sealed(record))


def network_of(ran: Ran) -> str:
    return next(d for d, task in ran.plan.tasks.items() if task.trains == "network")


def test_other_code_under_the_digest_of_the_users_own_file(own: Ran, store: Store, marker: Path) -> None:
    """It is set aside, the user's own code takes its place, and the results are of that."""
    for source, code in own.plan.sweep.code.items():
        plant_code(store, source, evil(marker, main=code.main))
    again = run_here(own.plan.sweep.path, store.root)
    assert not again.failed
    assert metrics(again.document()) == metrics(own.document())
    assert any("was not what this sweep put there; it was set aside" in note for note in again.observer.notes)


def test_a_worker_that_reads_planted_code_refuses_it(own: Ran, store: Store, marker: Path) -> None:
    """Planted after the engine has checked and before the worker does: the worker trusts only the task's digest."""
    digest = next(d for d, task in own.plan.tasks.items() if task.kind == "sample")
    sources = list(own.plan.sweep.code)
    for source, code in own.plan.sweep.code.items():
        plant_code(store, source, evil(marker, main=code.main))
    with pytest.raises(Exception, match=r"code/[0-9a-f]{32}\.json lists code that its name does not match"):
        worker.run(store.root, digest, [0])
    for source in sources:  # the right manifest, and one file of several that is not in it as it should be
        overwrite(store, code_record(source), sealed(own.plan.sweep.code[source].manifest))
    with pytest.raises(Exception, match=r"code/[0-9a-f]{32}/.*\.py is not the file that this sweep uses"):
        worker.run(store.root, digest, [0])


def test_a_finished_training_that_names_other_code(own: Ran, store: Store, marker: Path) -> None:
    """The network's file, its record and the code that it names match each other, but are not of this sweep."""
    code = evil(marker)
    plant_code(store, code.digest, code)
    described(store, network_of(own), {"name": "Convolutions", "fields": {}, "source": code.digest})
    again = run_here(own.plan.sweep.path, store.root)
    assert {*again.failed} == {d for d, task in own.plan.tasks.items() if task.kind == "sample"} & {*again.failed}
    assert again.failed
    for reason in again.failed.values():
        assert "network.safetensors: its model is of code" in reason
        assert "not what this sweep uses" in reason or "does not use" in reason


def test_a_finished_training_of_a_sweep_without_own_code(finished: Ran, tmp_path: Path, marker: Path) -> None:
    ignored = shutil.ignore_patterns("score", "blocks", "logs")
    store = Store(str(shutil.copytree(finished.store.root, tmp_path / "store", ignore=ignored)))
    code = evil(marker)
    plant_code(store, code.digest, code)
    digest = network_of(finished)
    described(store, digest, {"name": "Convolutions", "fields": {}, "source": code.digest})
    # also a plan that uses it, as a colleague's sweep may: that does not make it ours
    model = {"name": "Convolutions", "fields": {}, "version": 1, "source": code.digest}
    task = Task("train", {**finished.plan.tasks[digest].params, "model": model})
    document = {**document_of(finished.plan), "tasks": {task.digest: task.definition()}, "blocks": {}, "goals": []}
    document |= {"sweep": "theirs"}
    name = checksum(canonical(document).encode())
    overwrite(store, plan_name(name), sealed(document))
    overwrite(store, "sweeps/theirs/000001.json", sealed({"plan": name, "time": 1.0}))
    stream = next(d for d, t in finished.plan.tasks.items() if t.params.get("network") == digest)
    with pytest.raises(ValueError, match=r"files/[0-9a-f]{32}/network.safetensors: its model is of code"):
        worker.run(store.root, stream, [0])


def test_a_plan_under_the_name_of_another(own: Ran, store: Store, marker: Path) -> None:
    """A plan's name is the checksum of its content, so a reader that was given the name notices."""
    name = plan_checksum(own.plan)
    code = evil(marker)
    plant_code(store, code.digest, code)
    text = canonical(document_of(own.plan))
    for source in own.plan.sweep.code:
        text = text.replace(source, code.digest)
    overwrite(store, plan_name(name), sealed(json.loads(text)))
    with pytest.raises(Exception, match="is another plan: its content does not match its name"):
        Context(store, Options()).read_plan(name)
    again = run_here(own.plan.sweep.path, store.root)
    assert metrics(again.document()) == metrics(own.document())


def payloads(marker: Path) -> dict[str, bytes]:
    """Contents that run code if they are loaded carelessly."""
    pickled = f"cposix\nsystem\n(S'touch \"{marker}\"'\ntR.".encode()
    return {
        "python": f"open({str(marker)!r}, 'a').write('python')\n".encode(),
        "pickle": pickled,
        "record": sealed({"use": f"{marker}.py:Evil", "source": "0" * 32, "again": f"touch '{marker}'"}),
    }


@pytest.mark.parametrize("kind", ["python", "pickle", "record"])
def test_every_file_of_a_store_is_planted(finished: Ran, tmp_path: Path, marker: Path, kind: str) -> None:
    """Each file gets the payload; then a run and every command that reads. The results are right."""
    store = Store(str(shutil.copytree(finished.store.root, tmp_path / "store")))
    data = payloads(marker)[kind]
    task = network_of(finished)
    for extra in (f"leases/{task}/000001.json", "waves/tiny/000001/wave.json", "waves/tiny/000001/000.json"):
        overwrite(store, extra, data)
    overwrite(store, f"files/{task}/checkpoint-000000004.safetensors", data)
    overwrite(store, f"attempts/{task}/00000000000000000001-1.json", data)
    for path in sorted(Path(store.root).rglob("*")):
        if path.is_file() and path.name != "nagbench.json":
            path.write_bytes(data)
    path, place = finished.plan.sweep.path, ("--store", store.root)
    for words in (["status", path], ["report", path, "--json", "--tracking", "none"], ["gc"]):
        done = nagbench(*words, *place)
        assert done.returncode in (0, 1, 2), done.stderr
        assert "Traceback" not in done.stderr
    again = None
    while again is None:  # each run repairs so many files, and then says that the storage is at fault
        try:
            again = run_here(path, store.root)
        except EnvironmentProblem as error:
            assert "keeps damaging files" in str(error)  # noqa: PT017
    assert not again.failed
    assert metrics(again.document()) == metrics(finished.document())


def test_an_asset_of_equal_size_and_time(tmp_path: Path, marker: Path) -> None:
    """TorchScript is code, so equal size and time do not prove that it is the same file."""
    store = Store(str(tmp_path / "store"))
    store.open()
    file = tmp_path / "net.pt"
    file.write_bytes(b"a" * 100)
    known = content(str(file))
    assert assets.keep(store, known, file) == []
    there = Path(assets.path(store, known))
    before = there.stat()
    (tmp_path / "other").write_bytes(b"b" * 100)
    os.replace(tmp_path / "other", there)
    os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (there.stat().st_size, there.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(Exception, match=r"assets/[0-9a-f]{32} has other content than its name says"):
        assets.path(store, known)
    overwrite(store, f"assets/{known}/net.pt", b"b" * 100)  # again, before the next submission
    assert assets.keep(store, known, file) == [f"assets/{known}/net.pt"]
    assert Path(assets.path(store, known)).read_bytes() == b"a" * 100


@pytest.mark.parametrize("form", ["file", "folder"])
def test_an_asset_of_a_shared_store_is_used_from_ones_own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Others can write to the store and swap the file after the check, so a private copy is opened."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store, given = Store(str(tmp_path / "store")), tmp_path / "given"
    store.open()
    given.mkdir()
    (given / "net.safetensors").write_bytes(b"a" * 100)
    source = given if form == "folder" else given / "net.safetensors"
    known = content(str(source))
    assets.keep(store, known, source)
    folder = Path(store.path(f"assets/{known.rstrip('/')}"))
    assert Path(assets.path(store, known)).is_relative_to(store.root), "nobody else can write there"
    folder.chmod(0o777)
    there = Path(assets.path(store, known))
    file = there / "net.safetensors" if form == "folder" else there
    assert there.is_relative_to(tmp_path / "cache")
    assert (tmp_path / "cache/nagbench/assets").stat().st_mode & 0o077 == 0
    (folder / "net.safetensors").write_bytes(b"b" * 100)
    assert file.read_bytes() == b"a" * 100
    with pytest.raises(CorruptFile, match="has other content than its name says"):
        assets.path(store, known)
    assets.keep(store, known, source)
    folder.chmod(0o777)
    assert assets.path(store, known) == str(there)
    file.write_bytes(b"c" * 100)  # a damaged copy is made again
    assert assets.path(store, known) == str(there)
    assert file.read_bytes() == b"a" * 100
    assert [path.name for path in (tmp_path / "cache/nagbench/assets").iterdir()] == [known.rstrip("/")]


def test_without_a_cache_of_ones_own_the_copy_is_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store, source = Store(str(tmp_path / "store")), tmp_path / "net.pt"
    store.open()
    source.write_bytes(b"a" * 100)
    known = content(str(source))
    assets.keep(store, known, source)
    there = Path(store.path(f"assets/{known}/net.pt"))
    there.chmod(0o666)
    copy = Path(assets.path(store, known))
    assert (copy.name, copy.read_bytes()) == ("net.pt", b"a" * 100)
    assert copy != there
    assert copy.parent.stat().st_mode & 0o777 == 0o700


def test_a_job_on_ray_refuses_another_plan_under_the_name_it_was_told(finished: Ran, tmp_path: Path) -> None:
    """Its own checksum is right, but it is not that of the name."""
    store = Store(str(shutil.copytree(finished.store.root, tmp_path / "store")))
    name = plan_checksum(finished.plan)
    assert plan_checksum(read_plan(store, name)) == name
    other = document_of(finished.plan)
    other["keep"] = "influence"
    overwrite(store, plan_name(name), sealed(other))
    with pytest.raises(CorruptFile, match="is another plan"):
        read_plan(store, name)


def test_blocks_and_records_of_right_checksum_and_wrong_shape(finished: Ran, tmp_path: Path) -> None:
    """They count as damaged: set aside, and made again."""
    store = Store(str(shutil.copytree(finished.store.root, tmp_path / "store")))
    stream, scores = finished.plan.cells[0].stream, [scored.task for scored in finished.plan.cells[0].scores]
    shapes: list[Any] = [
        {},
        {"values": 3, "files": {}, "started": 0, "seconds": 1},
        {"files": []},
        {"values": {"fid": 1}},
    ]
    for task, shape in zip(scores, shapes, strict=False):
        overwrite(store, f"records/score/{task}.json", sealed(shape))
    overwrite(store, block_name(stream, 0), pack({}, {"kind": "sample", "digest": stream, "first": "x", "count": 0}))
    shown = nagbench("status", finished.plan.sweep.path, "--store", store.root)
    assert shown.returncode == 0, shown.stderr
    assert "Traceback" not in shown.stderr
    again = run_here(finished.plan.sweep.path, store.root)
    assert not again.failed
    assert metrics(again.document()) == metrics(finished.document())


def circle(document: dict[str, Any]) -> dict[str, Any]:
    first, second = list(document["tasks"])[:2]
    tasks = {key: dict(value) for key, value in document["tasks"].items()}
    tasks[first]["inputs"], tasks[second]["inputs"] = [second], [first]
    return {**document, "tasks": tasks, "sweep": "theirs"}


def unknown_kind(document: dict[str, Any]) -> dict[str, Any]:
    tasks = {key: {**value, "kind": "..evil"} for key, value in document["tasks"].items()}
    return {**document, "tasks": tasks, "sweep": "theirs"}


@pytest.mark.parametrize("make", [circle, unknown_kind])
def test_a_plan_of_another_sweep_that_is_none(
    finished: Ran, tmp_path: Path, make: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    store = Store(str(shutil.copytree(finished.store.root, tmp_path / "store")))
    document = make(document_of(finished.plan))
    name = checksum(canonical(document).encode())
    overwrite(store, plan_name(name), sealed(document))
    overwrite(store, "sweeps/theirs/000001.json", sealed({"plan": name, "time": 1.0}))
    with pytest.raises(Exception, match="is not a plan"):
        stored.read(store, name)
    shown = nagbench("du", "--store", store.root)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr.count("Passed over") == 1
    refused = nagbench("gc", "--delete", "--store", store.root)  # what it wants to keep, nobody knows
    assert refused.returncode == 2
    assert "the newest plan of sweep theirs" in refused.stderr
    assert not run_here(finished.plan.sweep.path, store.root).failed


def test_a_sweep_in_a_store_that_others_fill_while_it_runs(tmp_path: Path, marker: Path) -> None:
    """Records are planted before their tasks start; the run still finishes."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(changed(TINY, "grid: [0, 1]", "grid: [0]"))
    planned = plan(read_sweep(sweep))
    store = Store(str(tmp_path / "store"))
    store.open()
    for digest, task in planned.tasks.items():
        if task.kind in ("train", "reference"):
            record = {"files": {"network.safetensors": "0" * 32}, "started": time.time(), "seconds": 1.0}
            overwrite(store, f"records/{task.kind}/{digest}.json", sealed(record | {"options": asdict(Options())}))
    again = run_here(sweep, store.root)
    assert not again.failed
    assert len(metrics(again.document())) == len(planned.cells)
