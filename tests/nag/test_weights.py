"""Fetching weights from a server on this machine, and reading files of weights."""

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from nag import pretrained as weights
from nag.pretrained import KnownWeights, cache, check_file, fetch, find, located, read_state

DATA = bytes(range(256)) * 9000  # 2.3 MB
SHA256 = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        if self.path == "/missing":
            self.send_error(404, "not here")
            return
        if self.path in server.linked:  # as Hugging Face redirects to where large files are
            self.send_response(302)
            self.send_header("X-Linked-ETag", f'"{server.linked[self.path]}"')
            self.send_header("Location", "/net")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        half = len(DATA) // 2
        self.wfile.write(DATA[:half])
        self.wfile.flush()
        server.half.set()
        server.go_on.wait(200)
        if self.path != "/cut":
            self.wfile.write(DATA[half:])

    def do_HEAD(self):
        if self.path in self.server.linked:
            self.do_GET()
        else:
            self.send_error(403, "only GET")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.linked = {}
    server.requests, server.half, server.go_on = [], threading.Event(), threading.Event()
    server.go_on.set()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(weights, "POLL_S", 0.05)


def quiet(done, total):
    pass


def left_behind():
    return sorted(path.name for path in cache().iterdir()) if cache().is_dir() else []


def test_a_file_is_fetched_once_and_found(server, tmp_path):
    table = {"net.pt": KnownWeights(f"{server.url}/net", len(DATA), SHA256)}
    seen = []
    assert find("net.pt") is None
    path = fetch("net.pt", lambda done, total: seen.append((done, total)), table)
    assert path == tmp_path / "cache" / "nagbench" / "weights" / "net.pt" == find("net.pt")
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert fetch("net.pt", quiet, table) == path
    assert server.requests == ["/net"]
    assert left_behind() == ["net.pt"]


def test_a_hash_may_be_given_by_its_first_digits_or_not_at_all(server):
    table = {
        "a": KnownWeights(f"{server.url}/a", None, SHA256[:8]),
        "b": KnownWeights(f"{server.url}/b", None, None),
        "c": KnownWeights(f"{server.url}/c", len(DATA), None),
    }
    for name in table:
        assert fetch(name, quiet, table).read_bytes() == DATA


def test_a_file_of_no_known_hash_has_the_one_that_its_server_tells(server):
    server.linked = {"/good": SHA256, "/bad": "0" * 64, "/old": "5" * 40}
    table = {name: KnownWeights(f"{server.url}/{name}", None, None) for name in ("good", "bad", "old")}
    assert fetch("good", quiet, table).read_bytes() == fetch("old", quiet, table).read_bytes() == DATA
    with pytest.raises(ValueError, match=f"gave is not bad: its SHA-256 is {SHA256}, not 0000"):
        fetch("bad", quiet, table)
    assert left_behind() == ["good", "old"]


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (("/net", len(DATA), "0" * 64), f"its SHA-256 is {SHA256}, not 0000"),
        (("/net", len(DATA) + 1, SHA256), rf"it has {len(DATA):,} bytes, not {len(DATA) + 1:,}"),
    ],
    ids=["hash", "size"],
)
def test_what_is_not_the_file_is_refused_and_nothing_is_kept(known, message, server):
    table = {"net.pt": KnownWeights(server.url + known[0], *known[1:])}
    with pytest.raises(ValueError, match=rf"what {server.url}/net gave is not net\.pt: {message}"):
        fetch("net.pt", quiet, table)
    assert left_behind() == []


@pytest.mark.parametrize("page", ["cut", "missing", "nowhere"])
def test_a_download_that_fails_leaves_nothing_and_says_what_to_do(page, server):
    url = f"{server.url}/{page}" if page != "nowhere" else "http://127.0.0.1:1/net"
    table = {"net.pt": KnownWeights(url, len(DATA), SHA256)}
    place = re.escape(str(cache() / "net.pt"))
    with pytest.raises(ConnectionError, match=rf"{url} could not be downloaded: .* put that file at {place} by hand"):
        fetch("net.pt", quiet, table)
    assert left_behind() == []


def test_an_error_of_the_one_who_listens_is_not_taken_for_the_networks(server):
    table = {"net.pt": KnownWeights(f"{server.url}/net", len(DATA), SHA256)}

    def full(done, total):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        fetch("net.pt", full, table)
    assert not isinstance(raised.value, ConnectionError)
    assert left_behind() == []


def test_an_unknown_name_and_a_damaged_file_are_named(server):
    with pytest.raises(ValueError, match=r"'net' is not a known name of weights; known: inception-2015-12-05\.pt, "):
        fetch("net", quiet)
    table = {"net.pt": KnownWeights(f"{server.url}/net", len(DATA), SHA256)}
    cache().mkdir(parents=True)
    (cache() / "net.pt").write_bytes(b"x" + DATA[1:])
    with pytest.raises(ValueError, match=r"net\.pt is not what its name says: its SHA-256 is .* Remove it and fetch"):
        fetch("net.pt", quiet, table)
    with pytest.raises(ValueError, match="not what its name says"):
        check_file(cache() / "net.pt", table["net.pt"])
    assert server.requests == []


FETCH = """\
import sys
from nag.pretrained import KnownWeights, fetch
url, size, sha256 = sys.argv[1], int(sys.argv[2]), sys.argv[3]
print(fetch("net.pt", lambda done, total: None, {"net.pt": KnownWeights(url, size, sha256)}))
"""


def process(server):
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, f"{server.url}/net", str(len(DATA)), SHA256],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_download_once(server):
    server.go_on.clear()
    both = [process(server)]
    assert server.half.wait(120)
    both.append(process(server))
    time.sleep(1)  # the second waits for the first
    assert both[1].poll() is None
    assert find("net.pt") is None
    server.go_on.set()
    for one in both:
        out, error = one.communicate(timeout=200)
        assert (one.returncode, out.strip()) == (0, str(cache() / "net.pt")), error
    assert server.requests == ["/net"]
    assert left_behind() == ["net.pt"]


def test_a_killed_download_does_not_stop_the_next(server, monkeypatch):
    server.go_on.clear()
    one = process(server)
    assert server.half.wait(120)
    one.kill()
    one.communicate()
    assert find("net.pt") is None
    lock, partial = left_behind()
    assert (lock, partial.endswith(".part")) == (".net.pt.lock", True)
    server.go_on.set()
    monkeypatch.setattr(weights, "STALE_S", 0.3)
    monkeypatch.setattr(weights, "LEFT_S", 0.0)
    table = {"net.pt": KnownWeights(f"{server.url}/net", len(DATA), SHA256)}
    assert fetch("net.pt", quiet, table).read_bytes() == DATA
    assert left_behind() == ["net.pt"]


def test_a_lock_that_is_held_is_waited_for(server, monkeypatch):
    """Longer than a stale one would be: its holder touches it."""
    monkeypatch.setattr(weights, "STALE_S", 1.0)
    monkeypatch.setattr(weights, "BEAT_S", 0.1)
    table = {"net.pt": KnownWeights(f"{server.url}/net", len(DATA), SHA256)}
    server.go_on.clear()
    threads = [threading.Thread(target=fetch, args=("net.pt", quiet, table)) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    server.go_on.set()
    for thread in threads:
        thread.join(200)
    assert server.requests == ["/net"]
    assert left_behind() == ["net.pt"]


def test_located(tmp_path):
    given = tmp_path / "own.pt"
    given.write_bytes(b"x")
    assert located(str(given), "net.pt") == given
    with pytest.raises(FileNotFoundError, match=r"net\.pt is not in .*weights: run 'nagbench fetch net\.pt'"):
        located(None, "net.pt")
    cache().mkdir(parents=True)
    (cache() / "net.pt").write_bytes(b"x")
    assert located(None, "net.pt") == cache() / "net.pt"
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: there is no such file of weights"):
        located(str(tmp_path / "gone.pt"), "net.pt")


def test_the_cache_is_in_the_home_folder_unless_said_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache() == tmp_path / ".cache" / "nagbench" / "weights"


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_state_dicts_are_read_in_every_form(tmp_path):
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
    torch.save(state, tmp_path / "new.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "training.pth")
    torch.save({"model": state}, tmp_path / "model.pth")
    save_file(state, tmp_path / "weights.safetensors")
    for path in sorted(tmp_path.glob("*.*")):
        read = read_state(path)
        assert read.keys() == state.keys(), path
        assert all(torch.equal(read[name], state[name]) for name in state), path


def test_what_is_no_state_dict_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "whole.pth")
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:300])
    for name, message in {
        "evil": r"it holds no weights, only a \(posix.system, which is not run\)",
        "tensor": "it holds a tensor, not a state dict",
        "numbers": "it holds no weights, only a",
        "text": "neither a file of torch.save nor safetensors",
        "cut": "the file is cut off",
    }.items():
        with pytest.raises(ValueError, match=rf"{name}\.pth: {message}"):
            read_state(tmp_path / f"{name}.pth")
    assert not (tmp_path / "ran").exists()
