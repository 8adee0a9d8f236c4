"""What MkDocs does besides turning docs/*.md into pages (mkdocs.yml).

A page here links to files as GitHub shows them, such as `../sweeps/digits.yaml`. On the site each such file is a page
too, the README is the start page, and `<!-- generated: NAME -->` becomes the text that docs/reference.py makes.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from docs.reference import GENERATED

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "vulnerabilities.md"}
PAGES |= {"CHANGELOG.md": "changes.md"}
SHOWN = {
    ".yaml": "yaml",
    ".py": "python",
    ".cff": "yaml",
    ".csv": "text",
    ".def": "text",
    ".txt": "text",
    "": "text",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside docs/ that pages link to."""
    for name, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / name).read_text()))
    wanted = {target for name in _texts() for target in _targets(name)}
    while wanted:
        name = wanted.pop()
        if files.get_file_from_path(place_of(name)) is not None:
            continue
        path = ROOT / name
        if path.is_dir():
            inside = sorted(each.relative_to(ROOT).as_posix() for each in path.iterdir() if _is_shown(each))
            wanted |= set(inside)
            links = "\n".join(f"- [{each}]({posixpath.relpath(each, posixpath.dirname(name))})" for each in inside)
            files.append(File.generated(config, place_of(name), content=f"# `{name}`\n\n{links}\n"))
        elif path.suffix == ".md":
            files.append(File.generated(config, place_of(name), content=path.read_text()))
            wanted |= _targets(name)
        elif path.suffix in SHOWN:
            text = f"# `{name}`\n\n````{SHOWN[path.suffix]}\n{path.read_text()}````\n"
            files.append(File.generated(config, place_of(name), content=text))
        else:
            files.append(File.generated(config, place_of(name), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make the generated parts, and let links to files lead to their pages."""
    markdown = re.sub(r"<!-- generated: ([\w ]+) -->", lambda found: GENERATED[found[1]](), markdown)
    name = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def led(found: re.Match[str]) -> str:
        target = _resolved(name, found[1])
        return posixpath.relpath(place_of(target), posixpath.dirname(page.file.src_uri) or ".") if target else found[1]

    return LINK.sub(led, markdown)


def place_of(name: str) -> str:
    """Where a file of the repository is among the sources of the site."""
    place = PAGES.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else None)
    if place is None:
        page = (ROOT / name).is_dir() or Path(name).suffix in SHOWN
        place = f"files/{name}.md" if page else f"files/{name}"
        SOURCES[place] = name
    return place


SOURCES = {place: name for name, place in PAGES.items()}  # the file of a page that is not of docs/


def _texts() -> list[str]:
    """The pages whose links count."""
    return [*PAGES, *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))]


def _targets(name: str) -> set[str]:
    found = {_resolved(name, link) for link in LINK.findall((ROOT / name).read_text())}
    return {target for target in found if target and not target.startswith("docs/")}


def _resolved(name: str, link: str) -> str | None:
    """The file or folder that a link of the file `name` leads to, from the root; None if there is none."""
    path = os.path.normpath(posixpath.join(posixpath.dirname(name), link))
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def _is_shown(path: Path) -> bool:
    return not path.name.startswith((".", "__")) and (path.is_dir() or path.suffix in {*SHOWN, ".md", ".svg"})
