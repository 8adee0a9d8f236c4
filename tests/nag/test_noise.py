import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from scipy import stats

from nag import noise

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    words = noise.philox(np.array(counter, np.uint64).reshape(4, 1), key)
    assert tuple(int(w) for w in words[:, 0]) == expected


def test_the_stream_never_changes():
    assert noise.normal(0, [0, 1], 0, (3,)).tolist() == [
        [0.991137683391571, -0.9246625900268555, -0.6176089644432068],
        [1.0675901174545288, -0.4253441393375397, -2.3679730892181396],
    ]
    assert noise.uniform(0, [0, 1], 0).tolist() == [0.39904647231489565, 0.5166791672979152]
    assert noise.integers(0, range(10), 0, 10).tolist() == [3, 5, 0, 9, 9, 7, 4, 8, 2, 9]
    assert noise.permutation(0, 0, 10).tolist() == [2, 8, 1, 7, 4, 9, 3, 0, 6, 5]
    assert noise.labels(0, range(10), 10).tolist() == [5, 5, 2, 0, 4, 0, 6, 9, 1, 6]
    assert [part.tolist() for part in noise.parts(7, 2)] == [[0, 3, 4], [1, 2, 5, 6]]
    assert noise.replicate(0, [1]) == 5400475511101679423
    assert noise.replicate(7, [2, 1]) == 4773290177769895093


def test_the_counter_is_laid_out_as_documented():
    seed, index, draw, block = 0x0123456789ABCDEF, 0xA1B2C3D4E5F607, 77, 1
    counter = np.array([block, draw, index & ONES, index >> 32 | noise.LABEL << 24], np.uint64).reshape(4, 1)
    words = noise.philox(counter, (seed & ONES, seed >> 32))[:, 0]
    first = ((int(words[0]) >> 5) * 2**26 + (int(words[1]) >> 6)) / 2**53
    assert noise.uniform(seed, [index], draw, (4,), noise.LABEL)[0, 2] == first


@pytest.mark.parametrize("make", [noise.normal, noise.uniform])
def test_a_sample_does_not_depend_on_its_batch(make, monkeypatch):
    indices = np.array([5, 0, 2**40 + 3, 17, 2**56 - 1])
    whole = make(3, indices, 2, (2, 5, 3))
    assert whole.shape == (5, 2, 5, 3)
    for i, index in enumerate(indices):
        np.testing.assert_array_equal(make(3, [index], 2, (2, 5, 3))[0], whole[i])
    np.testing.assert_array_equal(make(3, indices[::-1], 2, (2, 5, 3)), whole[::-1])
    for chunk in (1, 3, 8, 20):  # however the work is cut up
        monkeypatch.setattr(noise, "_CHUNK", chunk)
        np.testing.assert_array_equal(make(3, indices, 2, (2, 5, 3)), whole)


def test_streams_are_unlike():
    base = {"seed": 0, "indices": np.arange(4), "draw": 0, "purpose": noise.SAMPLE}
    others = [
        base,
        base | {"seed": 1},
        base | {"seed": 2**32},
        base | {"indices": np.arange(4) + 4},
        base | {"indices": np.arange(4) + 2**32},
        base | {"draw": 1},
        *(base | {"purpose": p} for p in range(noise.LABEL, noise.WEIGHTS + 1)),
    ]
    draws = np.stack([noise.normal(shape=(2500,), **o).ravel() for o in others])
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert abs(correlation).max() < 5 / np.sqrt(draws.shape[1])


def test_normal_numbers_are_normal():
    z = noise.normal(7, np.arange(1000), 3, (1, 16, 16)).astype(np.float64)
    n = z.size
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    for axis in (0, 2, 3):  # neighbours, in samples and inside one
        a, b = np.moveaxis(z, axis, 0)[:-1].ravel(), np.moveaxis(z, axis, 0)[1:].ravel()
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)


def test_uniform_numbers_and_integers():
    u = noise.uniform(1, np.arange(50_000), 0)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    whole = noise.integers(1, np.arange(50_000), 4, 7)
    assert set(whole.tolist()) == set(range(7))
    assert stats.chisquare(np.bincount(whole)).pvalue > 1e-3


def test_labels():
    assert noise.labels(0, [9, 10, 11, 25], 10, "balanced").tolist() == [9, 0, 1, 5]
    drawn = noise.labels(4, np.arange(1000), 10)
    np.testing.assert_array_equal(noise.labels(4, np.arange(500, 600), 10), drawn[500:600])
    assert drawn.dtype == np.int64
    assert set(drawn.tolist()) == set(range(10))
    with pytest.raises(ValueError, match="unknown label rule 'even'; known: uniform, balanced"):
        noise.labels(0, [0], 10, "even")


@pytest.mark.parametrize("n", [0, 1, 2, 1797])
def test_permutation(n):
    first, second = noise.permutation(0, 0, n), noise.permutation(0, 1, n)
    assert sorted(first.tolist()) == list(range(n))
    assert n < 3 or first.tolist() != second.tolist()


@pytest.mark.parametrize(("n", "count"), [(0, 2), (3, 2), (1797, 2), (1797, 4), (100, 10)])
def test_parts_are_all_rows_once_in_no_order(n, count):
    found = noise.parts(n, count)
    assert sorted(np.concatenate(found).tolist()) == list(range(n))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert all((np.diff(part) > 0).all() for part in found)
    if n == 1797:
        for period in (2, 10, 397):  # labels in turn, and runs of one class
            classes = np.bincount(found[0] % period, minlength=period), np.bincount(found[0] * period // n)
            for share in classes:
                assert abs(share - n / count / period).max() < 5 * (n / count / period) ** 0.5


def test_halves_are_two_quarters_each():
    halves, quarters = noise.parts(1001, 2), noise.parts(1001, 4)
    assert set(halves[0].tolist()) == {*quarters[0].tolist(), *quarters[1].tolist()}


def test_replicates_have_samples_of_their_own_and_share_them_with_their_kin():
    assert noise.replicate(5, []) == noise.replicate(5, [0]) == noise.replicate(5, [0, 0]) == 5
    assert len({noise.replicate(5, line) for line in ([1], [1, 1], [1, 0], [1, 1, 1])}) == 1
    lines = [(), (1,), (2,), (0, 1), (2, 1), (1, 2), (2**40,), (2**62, 1), (1, 2, 1)]
    found = {noise.replicate(seed, line) for seed in (0, 1, 2, 2**63 - 1) for line in lines}
    assert len(found) == 4 * len(lines)
    a, b = (noise.normal(noise.replicate(0, line), np.arange(20_000), 0, (1,)).ravel() for line in ((1,), (2,)))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / len(a) ** 0.5
    with pytest.raises(ValueError, match="training seed must be"):
        noise.replicate(0, [-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, r"seed must be in \[0, 2\*\*64\), got -1"),
        ({"seed": 2**64}, "seed must be"),
        ({"draw": 2**32}, "draw must be"),
        ({"purpose": 256}, "purpose must be"),
        ({"indices": [-1]}, "indices must be in"),
        ({"indices": [2**56]}, "indices must be in"),
        ({"indices": [0.5]}, "whole numbers"),
        ({"indices": [[0]]}, r"shape \(N,\)"),
    ],
)
def test_out_of_range_is_refused(change, message):
    good = {"seed": 2**64 - 1, "indices": [2**56 - 1], "draw": 2**32 - 1, "shape": (3,), "purpose": 255}
    assert np.isfinite(noise.normal(**good)).all()
    with pytest.raises(ValueError, match=message):
        noise.normal(**good | change)


def test_noise_of_a_batch_leaves_the_global_generators_alone():
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].tolist()
    draws = noise.Noise(seed=2, indices=[4, 9], shape=(1, 8, 8))
    assert draws(3).dtype == torch.float32
    np.testing.assert_array_equal(draws(3)[1].numpy(), noise.normal(2, [9], 3, (1, 8, 8))[0])
    assert torch.equal(before, torch.get_rng_state())
    assert np.random.get_state()[1].tolist() == before_numpy


def test_draws_are_made_ahead_and_are_the_same(monkeypatch):
    made, normal = [], noise.normal

    def watched(seed, indices, draw, shape, *purpose):
        made.append((draw, threading.current_thread().name.partition("_")[0]))
        return normal(seed, indices, draw, shape, *purpose)

    monkeypatch.setattr(noise, "normal", watched)
    plain, ahead = (noise.Noise(2, [4, 9], (1, 8, 8), prefetch=ahead) for ahead in (None, True))
    expected = [plain(k) for k in range(4)]
    assert {thread for _, thread in made} == {"MainThread"}
    made.clear()
    assert all(torch.equal(ahead(k), draw) for k, draw in enumerate(expected))
    assert torch.equal(ahead(2), expected[2]), "a draw may be asked for again"
    for coming in ahead._made.values():
        coming.result()
    assert {(0, "MainThread"), (1, "MainThread"), (2, "noise"), (3, "noise"), (3 + noise.AHEAD, "noise")} <= set(made)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_draw_the_same_bits(threads, monkeypatch):
    monkeypatch.setattr(noise, "_cores", lambda: threads)
    for n in (0, 1, 2, 7):
        indices = np.arange(n, dtype=np.int64) * 5
        drawn = noise.spread(3, indices, 2, (2, 3), noise.TRAIN_NOISE)
        assert np.array_equal(drawn, noise.normal(3, indices, 2, (2, 3), noise.TRAIN_NOISE))
        assert drawn.shape == (n, 2, 3)


def test_another_process_draws_the_same():
    code = "from nag import noise; print(noise.normal(5, range(3), 1, (7,)).tobytes().hex())"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == noise.normal(5, range(3), 1, (7,)).tobytes().hex()
