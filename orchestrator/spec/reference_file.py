"""Published statistics of reference images, by path or URL: an .npz file of ADM, clean-fid, pytorch-fid or EDM, or a
cache of torch-fidelity.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nag import locations
from nag.registry import method, name_of
from nag.whole_file import whole_file
from orchestrator.errors import BadInput, EnvironmentProblem

if TYPE_CHECKING:
    from nag.reference_statistics import Contents

Report = Callable[[int, int], None]
MODES = ("legacy_tensorflow", "legacy_pytorch", "clean")
ADM = "legacy_tensorflow"  # the Inception mode of ADM's evaluator
FIDELITY = "inception-v3-compat"  # torch-fidelity's name of the Inception in that mode, part of its files' names


@method
class Published:
    """path: path or URL. mode: mode of the Inception whose moments these are; not needed for ADM's files, which have
    `mu_s`, and files with the mode in their name, such as clean-fid's.
    """

    path: str
    mode: Literal["clean", "legacy_tensorflow", "legacy_pytorch"] | None = None

    VERSION: ClassVar[int] = 1
    FILES: ClassVar[dict[str, str | None]] = {"path": None}
    REMOTE: ClassVar[bool] = True  # the path may be a URL

    def local(self) -> str | None:
        """Its path on this machine; None if it is missing, or at a URL and not downloaded yet."""
        path = str(self._cached) if self.is_url else self.path
        return path if os.path.exists(path) else None

    @property
    def is_url(self) -> bool:
        return locations.is_url(self.path)

    @property
    def _cached(self) -> Path:
        from nag.pretrained import cache
        from orchestrator.identity import checksum

        base = re.sub(r"[^\w.-]", "_", self.path.rstrip("/").rpartition("/")[2])
        return cache() / f"{checksum(self.path.encode())[:16]}-{base}"

    def fetched(self, report: Report = lambda done, of: None) -> str:
        """Its path on this machine, after a download if needed. Raises EnvironmentProblem if that fails."""
        path = self.local()
        if path is not None:
            return path
        try:
            if locations.is_web(self.path):
                from nag.pretrained import KnownWeights, fetch

                name = self._cached.name
                return str(fetch(name, report, {name: KnownWeights(self.path, None, None)}))
            return _copied(self.path, self._cached)
        except (OSError, ValueError, ImportError) as error:
            raise EnvironmentProblem(f"the reference {self.path} cannot be downloaded: {error}") from error

    def contents(self, path: str) -> Contents:
        """The contents of the file at `path`. Raises BadInput if it is invalid."""
        from nag.reference_statistics import contents

        try:
            held = contents(path)
        except (OSError, ValueError) as error:
            fix = "A reference has mu and sigma, images (arr_0), or both: an .npz file, or a cache of torch-fidelity"
            raise BadInput(f"{str(error).rstrip('.')}. {fix}.") from error
        if not held.dims and held.images is None:
            there = ", ".join(held.arrays) or "nothing"
            raise BadInput(f"{path} has neither mu and sigma nor images (arr_0); it has {there}.")
        return held

    @property
    def named_mode(self) -> str | None:
        """The mode that the user or the file's name says."""
        name = os.path.basename(self.path)
        return self.mode or (ADM if FIDELITY in name else next((mode for mode in MODES if mode in name), None))

    def mode_of(self, contents: Contents) -> str | None:
        """Mode of the Inception whose moments these are; None if neither the file nor the user names it."""
        if self.mode is None and "spatial" in contents.dims:
            return ADM
        return self.named_mode

    def moments_for(self, extractor: Any, contents: Contents) -> frozenset[str]:
        """The outputs of an extractor whose moments the file has: those of Inception in the same mode."""
        from nag.features.inception import Inception

        same = isinstance(extractor, Inception) and extractor.mode == self.mode_of(contents)
        return frozenset(contents.dims) if same else frozenset()

    def usable(self, extractor: Any) -> frozenset[str]:
        """`moments_for` for the file on this machine; empty if the file is missing."""
        path = self.local()
        return frozenset() if path is None else self.moments_for(extractor, self.contents(path))

    def refuses(self, extractor: Any, needs: frozenset[str], rows: bool) -> str | None:
        """Why the file cannot be the reference of a metric that needs these outputs of an extractor; None if it can, or
        is not on this machine yet. rows: the metric compares single images, so moments do not suffice.
        """
        path = self.local()
        if path is None or not needs:
            return None
        contents = self.contents(path)
        if reason := self._other_dimensions(extractor, contents, path):
            return reason
        if contents.images is not None:
            return None
        what = f"{os.path.basename(self.path)} has moments and no images (arr_0)"
        known = self.moments_for(extractor, contents)
        if not known:
            return f"{what}, and they are {self._whose(contents)}, not of {_shown(extractor)}; {_FIX}"
        if rows:
            return f"{what}, and this metric compares images one by one; {_FIX}"
        if not needs <= known:
            return f"{what}, and none of {' and '.join(sorted(needs - known))}; {_FIX}"
        return None

    def _other_dimensions(self, extractor: Any, contents: Contents, path: str) -> str | None:
        """Why the moments that would be used are not of this extractor, by their dimensions."""
        from nag.reference_statistics import other_dimensions

        known = self.moments_for(extractor, contents)
        dims = extractor.dims((3, 64, 64)) if known else {}
        return next(
            filter(None, (other_dimensions(path, each, contents.dims[each], dims) for each in sorted(known))), None
        )

    def _whose(self, contents: Contents) -> str:
        mode = self.mode_of(contents)
        fix = "of an unknown mode of inception (write reference: {path: ..., mode: ...})"
        return f"of inception with mode: {mode}" if mode else fix


_FIX = "give a file with images, as ADM's reference batches are, or a data set, {name: image_folder, path: ...}"


def _shown(extractor: Any) -> str:
    mode = extractor.mode
    return f"{name_of(extractor)} with mode: {mode}" if mode else name_of(extractor)


def _copied(url: str, target: Path) -> str:
    """Download a file and return its path."""
    system, place = locations.system(url)
    with whole_file(target) as temporary, locations.reached(url):
        system.get_file(place, str(temporary))
    return str(target)
