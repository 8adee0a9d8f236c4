"""What is not nagbench's: folders that are not a store, links, foreign and unreadable files."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import BadInput, EnvironmentProblem, Unreadable
from orchestrator.retention.garbage import files, garbage
from orchestrator.store import folders
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import TINY, Ran, changed, metrics, nagbench, run_here

HEX, OLD = "a" * 32, (1, 1)
KEEPS = changed(TINY, "name: tiny", "name: lean\nkeep: scores")


def copied(finished: Ran, tmp_path: Path) -> Store:
    return Store(str(shutil.copytree(finished.store.root, tmp_path / "store")))


def written(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, OLD)
    return paths


PROJECT = (".env", "code/mine.py", "plans/next year.md", "files/thesis.tex", f"code/{HEX}/mine.py", ".git/.index")
PROJECT += (f"plans/{HEX}.json", f"blocks/.x.{HEX}")


@pytest.mark.parametrize("store", [".", "here", "file"])
def test_gc_in_a_folder_that_is_no_store(tmp_path: Path, store: str) -> None:
    mine = written(tmp_path, *PROJECT)
    url = {".": ".", "here": str(tmp_path), "file": f"file://{tmp_path}"}[store]
    for words in ([], ["--delete"], ["--delete", "--quarantine", "--json"]):
        done = nagbench("gc", *words, "--store", url, cwd=tmp_path)
        assert done.returncode == 2, done.stdout
        assert "is not a store of nagbench (it has no nagbench.json), so nothing is deleted there" in done.stderr
    assert all(path.read_text() == "mine" for path in mine)


def test_nothing_is_deleted_or_set_aside_without_the_marker(tmp_path: Path) -> None:
    (mine,) = written(tmp_path, f"blocks/{HEX}/000001.safetensors")
    name = f"blocks/{HEX}/000001.safetensors"
    store = Store(str(tmp_path))
    for delete in (store.delete, store.remove, store.read_arrays):
        with pytest.raises(BadInput, match="is not a store of nagbench"):
            delete(name)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("command", ["status", "run", "gc", "du", "submit", "score"])
def test_an_empty_store_is_an_error(finished: Ran, tmp_path: Path, command: str) -> None:
    sweep = [] if command in ("gc", "du") else [str(finished.plan.sweep.path)]
    site = ["--site", str(tmp_path / "site.yaml")] if command == "submit" else []
    (tmp_path / "site.yaml").write_text("kind: ray\njobs: http://127.0.0.1:1\n")
    if command == "score":
        sweep = [str(tmp_path), "--reference", str(tmp_path)]
    done = nagbench(command, *sweep, *site, "--store", "", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "is empty" in done.stderr or command == "score"
    assert not (tmp_path / "nagbench.json").exists()


def test_gc_deletes_names_of_our_own_form_only(finished: Ran, tmp_path: Path) -> None:
    """In a project folder that was also used as a store, by mistake."""
    store = copied(finished, tmp_path)
    others = ("code/mine.py", "plans/next year.md", "files/thesis.tex", ".env", "blocks/.hidden", "assets/x/y.pt")
    others += ("sweeps/tiny/notes", "logs/mine.log", f"records/score/{HEX}.json.bak", "attempts/x/1.json")
    others += (f"blocks/{HEX}/mine.safetensors", f"src/.x.{HEX}", f"blocks/.x.{HEX[:-1]}", "waves/notes")
    mine = written(Path(store.root), *others)
    ours = written(Path(store.root), f"blocks/{HEX}/000001.safetensors", f"blocks/{HEX}/.000002.safetensors.{HEX}")
    assert {each.file.name for each in garbage(store, quarantine=True)} == {
        str(path.relative_to(store.root)) for path in ours
    }
    done = nagbench("gc", "--delete", "--store", store.root)
    assert done.returncode == 0, done.stderr
    assert all(path.exists() for path in mine)
    assert not any(path.exists() for path in ours)


def test_links_in_a_store_lead_nobody_out_of_it(tmp_path: Path) -> None:
    """A folder of blocks is a link, with `keep: scores`; the files behind it stay, whatever their names."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(KEEPS)
    victim = tmp_path / "victim"
    mine = written(victim, "000000.safetensors", "000001.safetensors", "thesis.tex", "logs")
    ran = run_here(sweep, tmp_path / "store")
    stream = ran.plan.cells[0].stream
    shutil.rmtree(ran.store.path(f"blocks/{stream}"), ignore_errors=True)
    os.symlink(victim, ran.store.path(f"blocks/{stream}"))
    told: list[str] = []
    store = Store(ran.store.root, told.append)
    assert not store.delete(block_name(stream, 0))
    (warning,) = told
    assert warning.startswith(
        f"Passed over: {store.path(block_name(stream, 0))} is not deleted: blocks/{stream} is a link"
    )
    with pytest.raises(EnvironmentProblem, match="is a link or a file, not a folder; it is not followed"):
        store.remove(block_name(stream, 1))
    with pytest.raises(EnvironmentProblem, match="is not followed"):
        store.create(f"blocks/{stream}/000009.safetensors", b"x")
    assert not run_here(sweep, tmp_path / "store").failed
    assert garbage(store) == []
    assert sorted(os.listdir(victim)) == sorted(path.name for path in mine)
    assert all(path.read_text() == "mine" for path in mine)


def test_logs_that_are_links_or_have_another_name(finished: Ran, tmp_path: Path) -> None:
    store = copied(finished, tmp_path)
    first, second, third, fourth = list(finished.plan.tasks)[:4]
    mine = written(tmp_path, "one", "two")
    os.makedirs(store.path("logs"), exist_ok=True)
    os.symlink(mine[0], store.path(f"logs/{first}.log"))
    os.link(mine[1], store.path(f"logs/{second}.log"))
    os.mkdir(store.path(f"logs/{third}.log"))
    os.mkfifo(store.path(f"logs/{fourth}.log"))
    shown = nagbench("logs", finished.plan.sweep.path, "--store", store.root)
    assert shown.returncode == 0, shown.stderr
    for digest in (first, second, third, fourth):
        with os.fdopen(store.open_log(f"{digest}.log"), "w") as file:
            file.write("of ours")
        assert Path(store.path(f"logs/{digest}.log")).read_text() == "of ours"
    assert [path.read_text() for path in mine] == ["mine", "mine"]
    shutil.rmtree(store.path("logs"))
    os.symlink(tmp_path / "elsewhere", store.path("logs"))
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(EnvironmentProblem, match="is not followed"):
        store.open_log(f"{first}.log")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_link_to_nowhere_is_no_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.open()
    for number, target in enumerate((tmp_path / "nowhere", Path("000001.json"))):  # the second leads to itself
        (tmp_path / "leases" / HEX).mkdir(parents=True, exist_ok=True)
        os.symlink(target, tmp_path / "leases" / HEX / f"{number:06d}.json")
        assert store.create(f"leases/{HEX}/{number:06d}.json", b"x")
        assert store.read(f"leases/{HEX}/{number:06d}.json") == b"x"
    assert not (tmp_path / "nowhere").exists()


def test_many_writers_over_a_link_to_nowhere(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.open()
    (tmp_path / "x").mkdir()
    for number in range(20):
        os.symlink("nowhere", tmp_path / "x" / str(number))
        with ThreadPoolExecutor(16) as pool:
            won = list(
                pool.map(lambda part, name=f"x/{number}": store.create(name, part), (b"%d" % i for i in range(16)))
            )
        assert sum(won) == 1
        assert store.read(f"x/{number}") == b"%d" % won.index(True)
    assert sorted(os.listdir(tmp_path / "x"), key=int) == [str(number) for number in range(20)]


def test_a_file_made_while_a_writer_looks_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writer checks where the name leads, and another creates the file between two checks."""
    store, looked, real = Store(str(tmp_path)), [], os.stat
    store.create("x/other", b"x")

    def look(path: Any, *arguments: Any, **keywords: Any) -> os.stat_result:
        if path == "file" and not looked:
            looked.append(path)
            try:
                return real(path, *arguments, **keywords)
            finally:
                assert store.create("x/file", b"the first")
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "stat", look)
    assert not store.create("x/file", b"the second")
    assert store.read("x/file") == b"the first"


def test_names_that_lead_out_of_a_store(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.open()
    for name in ("code/../../x", "/etc/x", "code//x", "code/./x"):
        with pytest.raises(EnvironmentProblem, match="not a name below a folder"):
            store.create(name, b"x")


# Foreign and unreadable files.


def test_foreign_files_are_passed_over_and_named_once(finished: Ran, tmp_path: Path) -> None:
    store = copied(finished, tmp_path)
    stream = finished.plan.cells[0].stream
    train = next(digest for digest, task in finished.plan.tasks.items() if task.kind == "train")
    name = finished.plan.sweep.name
    places = (
        f"sweeps/{name}/notes",
        f"sweeps/{name}/zzz.json",
        f"blocks/{stream}/notes",
        f"waves/{name}/notes",
        "waves/notes",
    )
    places += (
        f"leases/{train}/x",
        f"files/{train}/checkpoint-x.safetensors",
        "plans/notes",
        f"attempts/{stream}/notes",
    )
    places += ("records/score/notes", f"waves/{name}/000001/starts/notes", f"blocks/{stream}/00000².safetensors")
    written(Path(store.root), *places)
    os.mkdir(store.path(f"sweeps/{name}/000009"))
    os.mknod(store.path(f"records/score/{HEX}.json"), stat.S_IFSOCK | 0o600)
    for words in (["status"], ["report", "--tracking", "none"], ["export", str(tmp_path / "x.zip")], ["logs"]):
        done = nagbench(words[0], finished.plan.sweep.path, *words[1:], "--store", store.root)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        for folder in (f"blocks/{stream}", "records/score"):
            assert done.stderr.count(f"{store.path(folder)} has files that are not nagbench's") <= 1
    for words in (["du"], ["gc", "--delete"]):
        done = nagbench(*words, "--store", store.root)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(f"{store.path(f'sweeps/{name}')} has files that are not nagbench's") == 1
    assert all(os.path.exists(store.path(place)) for place in places)
    again = run_here(finished.plan.sweep.path, store.root)
    assert not again.failed
    assert metrics(again.document()) == metrics(finished.document())


@pytest.mark.parametrize("what", ["a folder", "a pipe", "a loop", "a socket"])
def test_something_else_in_the_place_of_a_file_is_set_aside(finished: Ran, tmp_path: Path, what: str) -> None:
    store = copied(finished, tmp_path)
    cell = finished.plan.cells[0]
    tasks = finished.plan.tasks
    train = next(digest for digest, task in tasks.items() if task.trains == "network")
    places = [tasks[cell.scores[0].task].record_name, block_name(cell.stream, 0), f"files/{train}/network.safetensors"]
    places += [block_name(cell.extracts[0], 1), *(tasks[scored.task].record_name for scored in cell.scores[1:])]
    for name in places:
        path = Path(store.path(name))
        path.unlink()
        match what:
            case "a folder":
                path.mkdir()
                (path / "x").write_text("x")
            case "a pipe":
                os.mkfifo(path)
            case "a loop":
                path.symlink_to(path.name)
            case "a socket":
                os.mknod(path, stat.S_IFSOCK | 0o600)
    shown = nagbench("status", finished.plan.sweep.path, "--store", store.root)
    assert shown.returncode == 0, shown.stderr
    again = run_here(finished.plan.sweep.path, store.root)
    assert not again.failed
    assert metrics(again.document()) == metrics(finished.document())


def without_rights() -> None:
    """Give up those capabilities by which root reads what nobody may. Ends with 99 where root cannot."""
    libc = ctypes.CDLL(None)
    header, sets = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    taken = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if os.geteuid() == 0:
        failed = any(libc.prctl(24, capability, 0, 0, 0) for capability in (1, 2))  # nor may a new program have them
        failed = failed or libc.capget(header, sets)
        words = [word & ~taken if i < 3 else word for i, word in enumerate(struct.unpack("6I", sets.raw))]
        if failed or libc.capset(header, struct.pack("6I", *words)):
            sys.exit(99)


def bound(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, as a user to whom permissions apply (not root)."""
    done = nagbench(*words, cwd=folder, before=without_rights)
    if done.returncode == 99:
        pytest.skip("root cannot give its rights away here")
    return done


def test_files_that_cannot_be_read(finished: Ran, tmp_path: Path) -> None:
    """A message, never a traceback; commands that only read go on without them."""
    store, sweep = copied(finished, tmp_path), finished.plan.sweep.path
    cell = finished.plan.cells[0]
    record = finished.plan.tasks[cell.scores[0].task].record_name
    hidden = written(Path(store.root), f"attempts/{cell.stream}/1.json", f"logs/{cell.stream}.log")
    for path in (Path(store.path(record)), *hidden):
        path.chmod(0o000)
    for words in (["status"], ["logs"], ["export", str(tmp_path / "x.zip")], ["report", "--tracking", "none"]):
        done = bound(tmp_path, words[0], sweep, *words[1:], "--store", store.root)
        assert done.returncode == (1 if words[0] == "report" else 0), (words, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
    done = bound(tmp_path, "run", sweep, "--store", store.root, "--tracking", "none", "--workers", "1")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert f"{store.path(record)} cannot be read: Permission denied" in done.stderr
    assert os.path.exists(store.path(record))  # it may be a colleague's good result
    os.unlink(store.path(record))
    Path(store.path(block_name(cell.extracts[0], 0))).chmod(0o000)
    done = bound(tmp_path, "run", sweep, "--store", store.root, "--tracking", "none", "--workers", "1")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "cannot be read: Permission denied. Ask its owner" in done.stderr
    for name in (f"sweeps/{finished.plan.sweep.name}", "blocks"):
        Path(store.path(name)).chmod(0o000)
    try:
        for words in (["gc", "--delete"], ["du"], ["status", sweep]):
            done = bound(tmp_path, *words, "--store", store.root)
            assert done.returncode == (3 if words[0] == "gc" else 0), (words, done.stderr)
            assert "Traceback" not in done.stderr, done.stderr
            assert "cannot be read" in done.stderr
    finally:
        for name in (f"sweeps/{finished.plan.sweep.name}", "blocks"):
            Path(store.path(name)).chmod(0o700)


def test_a_file_that_cannot_be_read_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a colleague's good result; only damaged files are set aside."""
    store = Store(str(tmp_path))
    store.open()
    store.create_record("notes/x.json", {})

    def refuse(path: str, follow: bool = True) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(folders, "read", refuse)
    with pytest.raises(Unreadable, match=r"cannot be read: Permission denied\. Ask its owner"):
        store.read_record("notes/x.json")
    assert store.list("notes") == ["x.json"]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """A limit on the size of files has the same effect as a full disk."""
    program = (
        "import resource, signal, sys\nfrom orchestrator.store.store import Store\n"
        "from orchestrator.errors import NagbenchError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nstore = Store(sys.argv[1])\nstore.open()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n    store.create('notes/x', b'x' * 1000)\nexcept NagbenchError as error:\n    sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "cannot be written: File too large (notes/x)" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path / "notes") == []
    assert [file.name for file in files(Store(str(tmp_path)))] == ["nagbench.json"]
