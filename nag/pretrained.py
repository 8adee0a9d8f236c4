"""Weights of feature networks: download, cache and reading.

A file is downloaded to a temporary name in the same folder, under a lock file, checked by size and SHA-256, then
renamed, so several machines can share the cache. Without a network, copy the file there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nag.cache import folder

if TYPE_CHECKING:
    from torch import Tensor


class KnownWeights(NamedTuple):
    url: str
    size: int | None  # bytes
    sha256: str | None  # or its first digits


INCEPTION = "inception-2015-12-05.pt"  # TorchScript, of StyleGAN2-ADA; clean-fid's and ADM's network
PYTORCH_FID = "pt_inception-2015-12-05-6726825d.pth"  # the state dict of pytorch-fid
DINOV2 = "dinov2_vitl14_pretrain.pth"
CLIP_L14_336 = "clip_vit_large_patch14_336_openai.safetensors"
CLIP_B32 = "clip_vit_base_patch32_openai.safetensors"
SIGLIP2_SO400M = "siglip2_so400m_patch14_224.safetensors"
SIGLIP2_L16 = "siglip2_large_patch16_256.safetensors"
SIGLIP2_B16 = "siglip2_base_patch16_256.safetensors"
MAE_B, MAE_L, MAE_H = (f"mae_pretrain_vit_{size}.pth" for size in ("base", "large", "huge"))
CONVNEXT_V2_B, CONVNEXT_V2_L = (f"convnextv2_{size}_22k_224_ema.pt" for size in ("base", "large"))


def _not_seen(url: str) -> KnownWeights:
    """A published file that was not at hand when this was written, so that its size and hash are not known. A download
    is compared with the hash that its server tells, which Hugging Face does. It is read as tensors alone, and its
    content is in the stamp of what is measured with it.
    """
    return KnownWeights(url, None, None)


def _of_timm(model: str) -> KnownWeights:
    return _not_seen(f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors")


KNOWN: dict[str, KnownWeights] = {
    INCEPTION: KnownWeights(
        f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION}",
        95_607_719,
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    ),
    PYTORCH_FID: KnownWeights(
        f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{PYTORCH_FID}",
        95_628_359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    DINOV2: KnownWeights(
        f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{DINOV2}",
        1_217_586_395,
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
    CLIP_L14_336: _of_timm("vit_large_patch14_clip_336.openai"),
    CLIP_B32: _of_timm("vit_base_patch32_clip_224.openai"),
    SIGLIP2_SO400M: _of_timm("vit_so400m_patch14_siglip_224.v2_webli"),
    SIGLIP2_L16: _of_timm("vit_large_patch16_siglip_256.v2_webli"),
    SIGLIP2_B16: _of_timm("vit_base_patch16_siglip_256.v2_webli"),
    **{name: _not_seen(f"https://dl.fbaipublicfiles.com/mae/pretrain/{name}") for name in (MAE_B, MAE_L, MAE_H)},
    **{
        name: _not_seen(f"https://dl.fbaipublicfiles.com/convnext/convnextv2/im22k/{name}")
        for name in (CONVNEXT_V2_B, CONVNEXT_V2_L)
    },
}

CHUNK = 2**20
BEAT_S = 2.0  # how often the holder of a lock touches it
STALE_S = 30.0  # a lock untouched for this long belongs to a dead process
POLL_S = 0.5
LEFT_S = 86_400.0  # a temporary file this old is from a killed process

Report = Callable[[int, int], None]  # bytes done, bytes in total or 0


def cache() -> Path:
    """$XDG_CACHE_HOME (or ~/.cache) / nagbench / weights."""
    return folder("weights")


def find(name: str) -> Path | None:
    """The file of this name in the cache, or None. Its content is not checked: `check` does that."""
    path = cache() / name
    return path if path.is_file() else None


def located(path: str | None, name: str) -> Path:
    """The file that a method reads: `path`, or `name` in the cache. FileNotFoundError says what to do."""
    place = Path(path) if path is not None else find(name)
    if place is None:
        raise FileNotFoundError(
            f"{name} is not in {cache()}: run 'nagbench fetch {name}' where there is a network, or give weights: PATH"
        )
    if not place.is_file():
        raise FileNotFoundError(f"{place}: there is no such file of weights")
    return place


def check_file(path: Path, known: KnownWeights) -> None:
    """Raise ValueError unless the file has the size and the SHA-256 of `known`. Reads it whole."""
    _check_size(path, path.stat().st_size, known)
    if known.sha256 is not None:
        hashed = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                hashed.update(data)
        _check_hash(path, hashed.hexdigest(), known)


def check_cached(path: Path) -> None:
    """Raise ValueError if a file in the cache has another size or hash than known. Files elsewhere are not checked."""
    if path.parent == cache() and path.name in KNOWN:
        check_file(path, KNOWN[path.name])


def fetch(name: str, report: Report, known: Mapping[str, KnownWeights] = KNOWN) -> Path:
    """The file in the cache, downloaded if it is not there, and checked in both cases.

    If several processes, on any hosts, call this, one downloads and the others wait. Raises ValueError for a name that
    is not in `known` or a file with the wrong size or hash, and ConnectionError, with URL and destination, if the
    download fails. A failed download leaves no file.
    """
    if name not in known:
        raise ValueError(f"{name!r} is not a known name of weights; known: {', '.join(known)}")
    path = cache() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path.with_name(f".{name}.lock"), lambda: path.is_file()) as held:
        if held and not path.is_file():
            _clear(path)
            _download(known[name], path, report)
            return path
    check_file(path, known[name])
    return path


def _clear(path: Path) -> None:
    for left in path.parent.glob(f".{path.name}.*.part"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > LEFT_S:
                left.unlink()


def _download(known: KnownWeights, path: Path, report: Report) -> None:
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    hashed, done = hashlib.sha256(), 0
    known = known if known.sha256 is not None else known._replace(sha256=_told(known.url))
    try:
        with partial.open("wb") as file:
            for data, size in _received(known, path):
                file.write(data)
                hashed.update(data)
                done += len(data)
                report(done, size or known.size or 0)
            file.flush()
            os.fsync(file.fileno())
        _check_size(path, done, known, source=known.url)
        _check_hash(path, hashed.hexdigest(), known, source=known.url)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _received(known: KnownWeights, path: Path) -> Iterator[tuple[bytes, int]]:
    """The file in pieces, with the announced size or 0. Raises ConnectionError, also if the file ends early."""
    from nag.web import received

    try:
        yield from received(known.url, known.size and known.size + CHUNK)  # more, so that _check_size reports it
    except OSError as error:
        raise ConnectionError(f"{error}. Where there is no network, put that file at {path} by hand.") from error


def _told(url: str) -> str | None:
    """The SHA-256 that the server tells, or None. Why a server cannot be reached, the download itself says."""
    from nag.web import linked_sha256

    try:
        return linked_sha256(url)
    except OSError:
        return None


def _check_size(path: Path, size: int, known: KnownWeights, source: str = "") -> None:
    if known.size is not None and size != known.size:
        raise ValueError(_wrong(path, f"it has {size:,} bytes, not {known.size:,}", source))


def _check_hash(path: Path, sha256: str, known: KnownWeights, source: str = "") -> None:
    if known.sha256 is not None and not sha256.startswith(known.sha256):
        raise ValueError(_wrong(path, f"its SHA-256 is {sha256}, not {known.sha256}", source))


def _wrong(path: Path, reason: str, source: str) -> str:
    if source:
        return f"what {source} gave is not {path.name}: {reason}. Nothing was kept."
    return f"{path} is not what its name says: {reason}. Remove it and fetch it again."


@contextlib.contextmanager
def _lock(path: Path, needless: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lock file and yield True, or yield False once `needless()`. The holder touches the file regularly; one
    left by a dead process is removed.

    Two holders at once, after a long pause of the first, do no harm: each has its own temporary file.
    """
    last, since = None, time.monotonic()
    while not needless():
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            touched = _touched(path)
            if touched != last:
                last, since = touched, time.monotonic()
            elif time.monotonic() - since > STALE_S:
                path.unlink(missing_ok=True)
            time.sleep(POLL_S)
    else:
        yield False
        return
    over = threading.Event()
    beat = threading.Thread(target=_touch, args=(path, over), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        over.set()
        beat.join()
        path.unlink(missing_ok=True)


def _touch(path: Path, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def _touched(path: Path) -> int | None:
    """Modification time of the opened file: by name, a shared file system may report that of a minute ago."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict, from any file that `nag.weights` reads. Raises ValueError, naming the file."""
    from nag.weights import read_weights

    return read_weights(path).state()
