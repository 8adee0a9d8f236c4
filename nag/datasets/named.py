"""The data sets of the paper's two tables: image folders with known numbers of classes and images.

Each has class folders in train/ and in val/ (imagenet) or test/. A folder with another number of classes is refused;
`check --deep` also counts the images. If the paper does not say which split it used, this is the one that the data
set's authors published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.datasets.dataset import Official
from nag.datasets.folder_layout import HELD_OUT
from nag.datasets.image_folder import ImageFolder, ImageSplit
from nag.registry import method

if TYPE_CHECKING:
    from nag.datasets.listing import Listing


class NamedDataset(ImageFolder):
    """An image folder that must hold a known data set."""

    official: ClassVar[Official]

    def _open(self, split: str, listing: Listing) -> ImageSplit:
        self._classes(listing)
        return super()._open(split, listing)

    def _classes(self, listing: Listing) -> int:
        """Raises ValueError if the folder does not have the data set's number of classes."""
        classes = super()._classes(listing)
        if classes not in self.official.classes:
            known = " or ".join(f"{count:,}" for count in self.official.classes)
            raise ValueError(f"{self.path} has {classes:,} class folders to train on, {_name(self)} has {known}")
        return classes

    def _classes_or(self, otherwise: int) -> int:
        return self.official.classes[0]

    def _disagreements(self, splits: dict[str, ImageSplit]) -> list[str]:
        problems, official = list[str](), self.official
        if self.limit is not None:
            return problems
        sizes = {split: each.originals for split, each in splits.items()}
        if not sizes["held_out"]:
            problems.append(f"{self.path} has no held-out images: no folder {' or '.join(HELD_OUT)} next to train")
        for split, wanted in (("train", official.train), ("held_out", official.held_out)):
            if wanted is not None and sizes[split] not in (0, wanted):
                counted = f"{self.path}: {sizes[split]:,} {split.replace('_', '-')} images"
                problems.append(f"{counted}, the official split of {_name(self)} has {wanted:,}")
        total = sum(sizes.values())
        if official.total and total not in official.total:
            known = " or ".join(f"{count:,}" for count in official.total)
            problems.append(f"{self.path}: {total:,} images, {_name(self)} has {known}")
        return problems


def _name(task: NamedDataset) -> str:
    return type(task).__name__


@method
class ImageNet(NamedDataset):
    """ILSVRC 2012, 1,000 classes: train/, and val/ sorted into class folders."""

    official: ClassVar[Official] = Official((1000,), 1_281_167, 50_000)


@method
class Food101(NamedDataset):
    """Food-101 (Bossard et al. 2014): 750 images a class in train/, 250 in test/."""

    official: ClassVar[Official] = Official((101,), 75_750, 25_250)


@method
class SUN397(NamedDataset):
    """SUN397 (Xiao et al. 2010), partition 1 of its authors' ten: 50 images a class in train/, 50 in test/."""

    official: ClassVar[Official] = Official((397,), 19_850, 19_850)


@method
class Caltech101(NamedDataset):
    """Caltech-101 (Fei-Fei et al. 2004), with or without its background class. It has no official split: usually
    30 images a class are in train/ and the others in test/.
    """

    official: ClassVar[Official] = Official((101, 102), None, None, (8_677, 9_144))


@method
class CUB200(NamedDataset):
    """Caltech-UCSD Birds-200-2011."""

    official: ClassVar[Official] = Official((200,), 5_994, 5_794)


@method
class StanfordCars(NamedDataset):
    """Cars (Krause et al. 2013)."""

    official: ClassVar[Official] = Official((196,), 8_144, 8_041)


@method
class DF20MMini(NamedDataset):
    """Danish Fungi 2020 - Mini (Picek et al. 2022)."""

    official: ClassVar[Official] = Official((182,), 32_753, 3_640)


@method
class ArtBench10(NamedDataset):
    """ArtBench-10 (Liao et al. 2022): 5,000 images a style in train/, 1,000 in test/."""

    official: ClassVar[Official] = Official((10,), 50_000, 10_000)
