"""The types of values in a site file."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from nag.registry import Int

PER_NODE = "gpus_per_node"


def checked(pattern: str, words: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"expected {words}")
        return text

    return AfterValidator(check)


_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*"
Name = Annotated[str, checked(_NAME, "a name of letters, digits and _ . @ + -")]
Names = Annotated[
    str, checked(f"{_NAME}(,{_NAME})*", "a name of letters, digits and _ . @ + -, or several with commas")
]
Constraint = Annotated[
    str, checked(r"[A-Za-z0-9_\[(][A-Za-z0-9_.:=&|,*!()\[\]-]*", "features such as a100, 'a100|h100' or a100&nvlink")
]
Gres = Annotated[
    str,
    checked(rf"{PER_NODE}|{_NAME}(:{_NAME})*:\{{gpus\}}", f"gpu:{{gpus}}, gpu:TYPE:{{gpus}} or {PER_NODE}"),
]
Hosts = Annotated[str, checked(r"[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*", "hosts such as n1,n7 or n[1-4]")]
Licenses = Annotated[str, checked(rf"{_NAME}(:\d+)?(,{_NAME}(:\d+)?)*", "licenses such as matlab:2,other@server")]
Place = Annotated[str, checked(r"[/~].*", "an absolute path, or one that starts with ~")]
OnNode = Annotated[str, checked(r"[/$].*", "an absolute path, or one that starts with a variable such as $TMPDIR")]
Word = Annotated[str, checked(r"(?s).+", "a word")]
Minutes = Annotated[float, Field(gt=0, le=60 * 24 * 365)]
Memory = Annotated[float, Field(gt=0, le=1e6)]
Count = Annotated[Int, Field(ge=1, le=10_000)]
VisibleAfter = Annotated[float, Field(ge=0, le=3600)]  # caches of a shared file system may hide a new file so long
Amount = Annotated[float, Field(ge=0, le=1024)]


class Processes:
    """Base of site settings with a key `processes`: how many processes train one network together."""

    processes: int

    def trained_on(self, network: str = "", parameters: float | None = None) -> int:
        return self.processes

    def trained_words(self, network: str = "", parameters: float | None = None) -> str:
        """The setting of that number, for messages."""
        return f"processes is {self.processes}"

    @property
    def writes_campaigns(self) -> bool:
        return False
