"""Contrast, saturation and clipped pixels: of images whose values are known, and beside a reference."""

import numpy as np
import pytest
import torch

from nag.features.colour import LUMA
from nag.features.colour import Colour as Extractor
from nag.metrics.colour import Colour


def colours(images):
    return Extractor().open()(images)["colour"].numpy()


def test_the_three_numbers_are_their_definitions():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (5, 3, 7, 6), dtype=np.uint8)
    x[0], x[1, :, :3], x[1, :, 3:] = 100, 255, 0
    found = colours(torch.from_numpy(x))
    luma = np.tensordot(x.astype(float), LUMA, axes=(1, 0))
    np.testing.assert_allclose(found[:, 0], luma.reshape(5, -1).std(axis=1) / 255, atol=1e-6)
    spread = x.max(axis=1).astype(float) - x.min(axis=1)
    np.testing.assert_allclose(found[:, 1], spread.reshape(5, -1).mean(axis=1) / 255, atol=1e-6)
    np.testing.assert_allclose(found[:, 2], np.isin(x, (0, 255)).reshape(5, -1).mean(axis=1), atol=1e-6)
    assert found[0].tolist() == [0, 0, 0]
    assert found[1, 1:].tolist() == [0, 1]
    grey = torch.from_numpy(x[:, :1].copy())
    np.testing.assert_array_equal(colours(grey), colours(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match="images must be uint8"):
        Extractor().open()(grey.float())


def test_an_oversaturated_copy_is_seen():
    """Values stretched away from grey: more contrast and saturation, and more of them at the ends."""
    rng = np.random.default_rng(1)
    real = rng.normal(128, 50, (200, 3, 8, 8)).clip(0, 255)
    strong = (128 + 1.6 * (real - 128)).clip(0, 255)
    unit, x = (colours(torch.from_numpy(a.astype(np.uint8))) for a in (real, strong))
    alike = Colour()({"colour": unit}, {"colour": unit})["values"]
    assert [one["value"] for one in alike.values()] == pytest.approx([1, 1, 0])
    found = Colour()({"colour": x}, {"colour": unit})
    for name, least in (("contrast", 1.2), ("saturation", 1.2), ("clipped", 0.08)):
        one = found["values"][name]
        assert least < one["low"] < one["value"] < one["high"]
    assert found["arrays"]["influence"].shape == (200,)
    assert found["arrays"].keys() == {"influence", "influence_saturation", "influence_clipped"}
    assert found["arrays"]["influence"].std(ddof=1) * 1.96 / 200**0.5 == pytest.approx(
        (found["values"]["contrast"]["high"] - found["values"]["contrast"]["low"]) / 2, rel=1e-5
    )


def test_grey_references_have_no_saturation_and_bad_input_is_named():
    unit = np.array([[0.2, 0, 0.1], [0.3, 0, 0.1]], np.float32)
    one = Colour()({"colour": unit}, {"colour": unit})["values"]["saturation"]
    assert (one["value"], one["reason"]) == (None, "no value: the reference images have no saturation")
    with pytest.raises(ValueError, match="at least 2 sample colours are needed; got 1"):
        Colour()({"colour": unit[:1]}, {"colour": unit})
    with pytest.raises(ValueError, match="there are no reference colours"):
        Colour()({"colour": unit}, {})


def test_each_value_has_an_influence_of_its_own():
    """The interval of the difference of two cells from it is that of a bootstrap over samples."""
    from nag.intervals import paired_difference
    from nag.metrics.metric import influence_name

    rng = np.random.default_rng(2)
    unit = rng.gamma((8.0, 2.0, 1.0), (0.03, 0.1, 0.02), (300, 3)).astype(np.float32)
    sides = [unit * rng.gamma(20, (1 / 20, 1.2 / 20, 1.5 / 20), (300, 3)) for _ in range(2)]
    found = [Colour()({"colour": side}, {"colour": unit}) for side in sides]
    drawn = [rng.integers(0, 300, 300) for _ in range(2000)]
    halves = []
    for column, name in enumerate(Colour.names):
        a, b = ((one["values"][name]["value"], one["arrays"][influence_name(Colour.names, name)]) for one in found)
        difference, low, high = paired_difference(*a, *b)
        scale = 1.0 if name == "clipped" else unit[:, column].mean()
        gaps = (sides[0] - sides[1])[:, column] / scale
        assert difference == pytest.approx(gaps.mean(), rel=1e-4)
        halves.append((high - low) / 2)
        assert halves[-1] == pytest.approx(1.96 * np.std([gaps[rows].mean() for rows in drawn]), rel=0.06)
    assert max(halves) > 1.5 * min(halves)
