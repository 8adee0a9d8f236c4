import numpy as np
import pytest
import torch

from nag.datasets.dataset import ArraySplit, to_uint8
from nag.datasets.digits import Digits as DigitsData
from nag.features.digits import Digits
from nag.features.pixels import Pixels


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained():
    return Digits().train(DigitsData().open("train"), lambda done, steps: None)


def stored(split: ArraySplit) -> torch.Tensor:
    return torch.from_numpy(to_uint8(split.images(np.arange(len(split)))))


def test_the_trained_classifier_knows_digits_it_has_not_seen(trained):
    split = DigitsData().open("held_out")
    logits = Digits().open(trained)(stored(split))["logits"]
    assert (logits.argmax(1).numpy() == split.labels(np.arange(len(split)))).mean() >= 0.96


def test_features_have_full_rank_and_no_heavy_tails(trained):
    """What the distance needs of them; after the ReLU neither holds."""
    features = Digits().open(trained)(stored(DigitsData().open("train")))["features"].double().numpy()
    assert features.shape == (1438, 64)
    assert np.linalg.cond(np.cov(features.T)) < 1e5
    z = (features - features.mean(axis=0)) / features.std(axis=0)
    assert (z**4).mean(axis=0).max() < 10


def test_training_is_bit_reproducible_and_leaves_the_global_generator_alone():
    split = DigitsData().open("train")
    extractor = Digits(steps=15)
    seen: list[tuple[int, int]] = []
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = extractor.train(split, lambda done, steps: seen.append((done, steps)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    b = extractor.train(split, lambda done, steps: None)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert seen == [(k, 15) for k in range(1, 16)]


def test_another_seed_gives_another_network():
    split = DigitsData().open("train")
    a, b = (Digits(steps=2, seed=seed).train(split, lambda *_: None) for seed in (0, 1))
    assert not torch.equal(a["conv1.weight"], b["conv1.weight"])


def test_outputs_are_named_typed_and_without_gradient(trained):
    images = stored(DigitsData().open("held_out"))[:7]
    for extractor, state, sizes in ((Digits(), trained, (64, 10)), (Pixels(), None, (64,))):
        outputs = extractor.open(state)(images)
        assert tuple(outputs) == extractor.outputs
        for name, size in zip(extractor.outputs, sizes, strict=True):
            assert outputs[name].shape == (7, size)
            assert outputs[name].dtype == torch.float32
            assert not outputs[name].requires_grad


def test_pixels_are_the_stored_values():
    levels = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8) * 4
    features = Pixels().open()(levels)["features"]
    assert (to_uint8(features) == levels.flatten(1)).all()


def test_smoke_is_the_same_extractor_made_cheap():
    assert Digits(seed=5).smoke() == Digits(steps=20, seed=5)
    assert Digits(steps=3).smoke() == Digits(steps=3)


def test_bad_input_is_named(trained):
    with pytest.raises(ValueError, match="must be trained first"):
        Digits().open(None)
    with pytest.raises(ValueError, match="not weights of the digits extractor"):
        Digits().open({"a": torch.zeros(1)})
    for extract in (Digits().open(trained), Pixels().open()):
        with pytest.raises(ValueError, match="uint8"):
            extract(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"\(N, 1, 8, 8\)"):
        Digits(steps=1).train(ArraySplit(np.zeros((4, 3, 8, 8)), np.zeros(4)), lambda *_: None)
    with pytest.raises(ValueError, match=r"labels in 0 \.\. 9"):
        Digits(steps=1).train(ArraySplit(np.zeros((4, 1, 8, 8)), np.full(4, 10)), lambda *_: None)
