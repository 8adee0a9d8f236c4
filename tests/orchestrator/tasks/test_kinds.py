"""Each kind of task says its own properties."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from orchestrator import tasks
from orchestrator.backends.slurm.settings import STAGES
from orchestrator.tasks.task import KINDS, Kind, Task, kind_of, makes_blocks, stage_of


def test_the_table_has_every_file_with_a_kind() -> None:
    files = [found.name for found in pkgutil.iter_modules(tasks.__path__)]
    kinds = [name for name in files if hasattr(importlib.import_module(f"orchestrator.tasks.{name}"), "KIND")]
    assert sorted(kinds) == sorted(KINDS)
    assert all(isinstance(kind_of(name), Kind) for name in KINDS)


@pytest.mark.parametrize("name", ["context", "nothing", "", None])
def test_another_name_is_no_kind(name: str) -> None:
    assert not makes_blocks(name)
    with pytest.raises(KeyError):
        kind_of(name)


def test_slurm_has_resources_for_every_kind() -> None:
    assert STAGES.keys() >= set(map(stage_of, KINDS))


def test_what_a_task_trains() -> None:
    given = {"network": {"train": {}, "data": {}}, "extractor": {"extractor": {}, "data": {}}, "": {"checkpoint": "a"}}
    assert {Task("train", params).trains: params for params in given.values()} == given
    assert Task("extract", {"extractor": {}, "stream": "s"}).trains == ""
