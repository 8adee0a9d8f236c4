"""The data sets of the paper's tables: what is held against the folders."""

from __future__ import annotations

import pytest
from PIL import Image

from nag.datasets import named as tasks
from nag.datasets.image_folder import ImageFolder

TASKS = [
    cls
    for cls in vars(tasks).values()
    if isinstance(cls, type) and issubclass(cls, tasks.NamedDataset) and cls is not tasks.NamedDataset
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def lay_out(root, split: str, classes: int, images: int) -> None:
    for name in (f"c{i:04d}" for i in range(classes)):
        folder = root / split / name
        folder.mkdir(parents=True)
        for j in range(images):
            Image.new("RGB", (4, 4), (j, 0, 0)).save(folder / f"{j}.png")


def test_there_are_the_eight_of_the_paper():
    assert sorted(cls.official.classes[0] for cls in TASKS) == [10, 101, 101, 182, 196, 200, 397, 1000]


@pytest.mark.parametrize("cls", TASKS, ids=lambda cls: cls.__name__)
def test_another_number_of_classes_is_refused(cls, tmp_path):
    lay_out(tmp_path / "data", "train", 3, 2)
    lay_out(tmp_path / "data", "test", 3, 1)
    data = cls(path=str(tmp_path / "data"), resolution=4)
    assert (data.shape, data.FOLDERS, data.VERSION) == ((3, 4, 4), ("path",), 1)
    with pytest.raises(ValueError, match=f"has 3 class folders to train on, {cls.__name__} has "):
        data.open("train")
    with pytest.raises(ValueError, match=f"has 3 class folders to train on, {cls.__name__} has "):
        _ = data.num_classes
    assert len(data.inspect()) == 1


def test_images_are_counted(tmp_path, monkeypatch):
    root = tmp_path / "data"
    lay_out(root, "train", 10, 2)
    data = tasks.ArtBench10(path=str(root), resolution=4, flip=True)
    assert len(data.open("train")) == 40
    problems = data.inspect()
    assert "no held-out images" in problems[0]
    assert "20 train images, the official split of ArtBench10 has 50,000" in problems[1]
    lay_out(root, "test", 10, 1)
    problems = data.inspect()
    assert len(problems) == 2
    assert "10 held-out images, the official split of ArtBench10 has 10,000" in problems[1]
    monkeypatch.setattr(tasks.ArtBench10, "official", tasks.Official((10,), 20, 10))
    assert data.inspect() == []


def test_where_only_the_total_is_known(tmp_path, monkeypatch):
    lay_out(tmp_path / "data", "train", 102, 1)
    lay_out(tmp_path / "data", "test", 102, 1)
    data = tasks.Caltech101(path=str(tmp_path / "data"), resolution=4)
    assert data.num_classes == 102
    (problem,) = data.inspect()
    assert "204 images, Caltech101 has 8,677 or 9,144" in problem
    monkeypatch.setattr(tasks.Caltech101, "official", tasks.Official((101, 102), None, None, (204,)))
    assert data.inspect() == []


def test_a_task_is_an_image_folder_of_the_same_images(tmp_path):
    lay_out(tmp_path / "data", "train", 10, 2)
    a, b = (cls(path=str(tmp_path / "data"), resolution=4).open("train") for cls in (tasks.ArtBench10, ImageFolder))
    assert a.files == b.files
