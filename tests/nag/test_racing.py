"""Racing: the search visits what it says, and the race keeps who could be best."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from nag.intervals import paired_difference, samples_for_difference
from nag.metrics.fid import FID
from nag.metrics.frechet import frechet_distance
from nag.racing import dimension_for, parts_of_directions, projection, race
from nag.search import Axis, Place, cost_at_most, first_places, next_places, rungs
from tests.nag.simulated_sweeps import Samples, Scores, arms, digits, distance_and_influence, power_law, search
from tests.nag.simulated_wide import wide

RANGE, LIST = Axis(9, ordered=True), Axis(3, ordered=False)
BOXES = {
    "range": (RANGE,),
    "list": (Axis(6, ordered=False),),
    "range and list": (RANGE, LIST),
    "two ranges": (RANGE, Axis(17, ordered=True)),
    "three": (Axis(5, ordered=True), LIST, Axis(8, ordered=True)),
    "one value": (Axis(1, ordered=True), Axis(1, ordered=False)),
    "two values": (Axis(2, ordered=True),),
}
BUDGETS = (None, 2, 3, 6, 20)


def full_search(axes: tuple[Axis, ...], worth: dict[Place, float], candidates: int | None) -> list[tuple[Place, ...]]:
    """The stages of a search in which the best of all tried is known exactly."""
    stages, tried = [first_places(axes, candidates)], set()
    while stages[-1]:
        tried |= set(stages[-1])
        stages.append(next_places(axes, tried, min(tried, key=worth.__getitem__), candidates))
        assert len(stages) <= 1 + math.prod(axis.size for axis in axes)
    return stages[:-1]


def random_worth(axes: tuple[Axis, ...], seed: int) -> dict[Place, float]:
    rng = np.random.default_rng(seed)
    return {place: float(rng.random()) for place in itertools.product(*(range(axis.size) for axis in axes))}


@pytest.mark.parametrize("axes", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("candidates", BUDGETS)
def test_a_search_stays_in_the_box_tries_no_place_twice_and_ends(
    axes: tuple[Axis, ...], candidates: int | None
) -> None:
    for seed in range(10):
        stages = full_search(axes, random_worth(axes, seed), candidates)
        tried = [place for stage in stages for place in stage]
        assert len(set(tried)) == len(tried)
        assert all(0 <= p < axis.size for place in tried for p, axis in zip(place, axes, strict=True))
        assert all(stage == tuple(sorted(stage)) for stage in stages)
        assert stages == full_search(axes, random_worth(axes, seed), candidates)


@pytest.mark.parametrize("axes", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("candidates", BUDGETS[1:])
def test_a_budget_is_used_up_and_not_exceeded(axes: tuple[Axis, ...], candidates: int) -> None:
    stages = full_search(axes, random_worth(axes, 0), candidates)
    everything = math.prod(axis.size for axis in axes)
    assert sum(map(len, stages)) == min(candidates, everything)
    if everything > candidates:
        assert len(stages[0]) == max(2, math.ceil(2 * candidates / 3))
    else:
        assert len(stages) == 1


def test_all_values_of_lists_and_five_of_ranges_with_both_ends() -> None:
    assert first_places((RANGE, LIST)) == tuple(itertools.product((0, 2, 4, 6, 8), range(3)))
    assert first_places((Axis(4, ordered=True),)) == ((0,), (1,), (2,), (3,))
    assert next_places((RANGE,), first_places((RANGE,)), (4,)) == ((3,), (5,))
    assert next_places((RANGE,), first_places((RANGE,)), (0,)) == ((1,),)
    assert next_places((LIST,), first_places((LIST,)), (1,)) == ()


@pytest.mark.parametrize("size", [9, 17, 33, 100])
def test_coarse_to_fine_finds_the_best_of_every_curve_with_one_valley(size: int) -> None:
    axes = (Axis(size, ordered=True),)
    for best in range(size):
        stages = full_search(axes, {(p,): abs(p - best) for p in range(size)}, None)
        tried = {place for stage in stages for place in stage}
        assert (best,) in tried
        assert len(tried) <= 5 + 2 * math.ceil(math.log2(size))


def test_two_ranges_end_where_no_neighbour_is_better() -> None:
    axes = (RANGE, RANGE)
    for a, b in itertools.product(range(9), repeat=2):
        worth = {(x, y): (x - a) ** 2 + (y - b) ** 2 + 0.5 * (x - a) * (y - b) for x in range(9) for y in range(9)}
        tried = {place for stage in full_search(axes, worth, None) for place in stage}
        assert (a, b) in tried
        assert len(tried) < 40


def test_few_candidates_are_spread_over_the_box_then_near_the_best() -> None:
    """No half of an axis holds more than two thirds of the first, and the others are the best's neighbours."""
    axes = (Axis(17, ordered=True), Axis(17, ordered=True))
    first = np.array(first_places(axes, 24))
    assert len(first) == 16
    assert ((first < 8.5).mean(axis=0) > 1 / 3).all()
    assert ((first < 8.5).mean(axis=0) < 2 / 3).all()
    best = tuple(int(p) for p in first[3])
    new = next_places(axes, [tuple(map(int, place)) for place in first], best, 24)
    assert len(new) == 8
    assert all(max(abs(a - b) for a, b in zip(place, best, strict=True)) <= 2 for place in new)
    wide_box = (Axis(1000, ordered=True),) * 6
    assert len(next_places(wide_box, first_places(wide_box, 30), (500,) * 6, 30)) == 10


def test_an_axis_without_values_and_a_single_candidate_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        Axis(0, ordered=True)
    with pytest.raises(ValueError, match="at least 2 candidates"):
        first_places((RANGE,), 1)


@pytest.mark.parametrize("count", [1, 2, 49, 50, 99, 500, 999, 1000, 5000, 50_000])
@pytest.mark.parametrize("block", [1, 10, 64, 250, 1000])
def test_rungs_rise_in_whole_blocks_to_the_count(count: int, block: int) -> None:
    found = rungs(count, block)
    assert found[-1] == count
    assert list(found) == sorted(set(found))
    assert len(found) <= 4
    assert all(n % block == 0 and n >= 50 for n in found[:-1])


def test_rungs_double_where_blocks_allow_it() -> None:
    assert rungs(5000, 125) == (625, 1250, 2500, 5000)
    assert rungs(1000, 500) == (500, 1000)
    with pytest.raises(ValueError, match="at least 1"):
        rungs(0, 10)


def candidates(means: list[float], spread: float, seeds: int = 3, n: int = 400) -> tuple[list, list]:
    """Values and influences of candidates with these means; the influences share most of their noise."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((seeds, n))
    influences = [[one + spread * rng.standard_normal(n) for one in shared] for _ in means]
    return [[mean + 0.001 * s for s in range(seeds)] for mean in means], influences


def test_the_leader_is_the_lowest_mean_and_clear_losers_leave() -> None:
    values, influences = candidates([3.0, 1.0, 1.001, 2.0, 1.002, 5.0], spread=0.1)
    found = race(values, influences, 0.0, False)
    assert found.leader == 1
    assert found.going_on == (1, 2, 4)
    assert found.differences[1] is None
    assert found.differences[0] is not None
    assert found.differences[0][0] == pytest.approx(2.0)
    assert race(values, influences, 0.0, True).going_on == (1,)


def test_a_race_is_over_when_all_others_are_worse_or_not_better_by_the_margin() -> None:
    values, influences = candidates([1.0, 2.0, 3.0, 4.0], spread=0.1)
    assert race(values, influences, 0.0, False).going_on == (0,)
    values, influences = candidates([1.0, 1.001, 1.002, 1.003], spread=0.1)
    assert race(values, influences, 0.0, False).going_on == (0, 1)
    assert race(values, influences, 0.05, False).going_on == (0,)


def test_a_difference_has_the_paired_error_of_the_mean_over_seeds() -> None:
    """With one seed, the interval of nag.intervals; with four equal ones, half as wide."""
    values, influences = candidates([1.0, 1.5], spread=1.0, seeds=1)
    found = race(values, influences, 0.0, False).differences[1]
    assert found == pytest.approx(paired_difference(1.5, influences[1][0], 1.0, influences[0][0]))
    four = race([one * 4 for one in values], [one * 4 for one in influences], 0.0, False).differences[1]
    assert found is not None
    assert four is not None
    assert four[2] - four[1] == pytest.approx((found[2] - found[1]) / 2)


def test_equal_candidates_halve_until_two_are_left_and_evidence_decides_between_them() -> None:
    left = list(range(6))
    for expected in ([0, 1, 2], [0, 1], [0, 1]):
        values, influences = candidates([1.0] * len(left), spread=0.1)
        left = [left[c] for c in race(values, influences, 0.0, False).going_on]
        assert left == expected
    values, influences = candidates([1.0, 1.1], spread=0.1)
    assert race(values, influences, 0.0, False).going_on == (0,)


def test_more_looks_and_candidates_take_more_evidence_and_samples_of_the_full_count_less() -> None:
    """A difference of 2.4 standard errors is enough at one look at two candidates, and not at three looks at four."""
    values, influences = candidates([1.0, 1.01, 2.0, 2.0], spread=0.1)
    pair = race(values[:2], influences[:2], 0.0, False)
    difference = pair.differences[1]
    assert difference is not None
    assert difference[1] is not None
    assert difference[0] / (difference[0] - difference[1]) * 1.96 == pytest.approx(2.4, abs=0.3)
    assert pair.going_on == (0,)
    assert race(values, influences, 0.0, False, looks=3).going_on == (0, 1)
    assert race(values, influences, 0.0, False, looks=3, share=0.5).going_on == (0,)
    assert race(values, influences, 0.0, False, looks=3, share=0.5).differences[1] == difference
    for wrong in ({"share": 1.1}, {"looks": 0}):
        with pytest.raises(ValueError, match="at least one look"):
            race(values, influences, 0.0, False, **wrong)


def test_after_the_first_rung_two_thirds_may_go_on() -> None:
    values, influences = candidates([1.0] * 6, spread=0.1)
    assert race(values, influences, 0.0, False, first=True).going_on == (0, 1, 2, 3)


def test_without_influences_the_better_half_and_at_least_two_go_on_by_the_means() -> None:
    none = [[None, None]] * 5
    found = race([[1.0, 1], [9, 9], [2, 2], [3, 3], [4, 4]], none, 0.5, False)
    assert found.going_on == (0, 2, 3)
    assert found.differences[1] == (8.0, None, None)
    assert race([[1.0], [9.0]], [[None], [None]], 0.5, False).going_on == (0, 1)
    assert race([[1.0], [9.0]], [[None], [None]], 0.5, True).going_on == (0,)
    values, influences = candidates([1.0, 5.0, 1.0], spread=0.1, seeds=2)
    mixed = race(values, [influences[0], [None, influences[1][1]], influences[2]], 0.0, False)
    assert mixed.differences[1] == (pytest.approx(4.0), None, None)


def test_the_order_of_candidates_does_not_matter() -> None:
    means = [1.3, 1.0, 1.02, 1.4, 1.01, 1.1, 1.05]
    values, influences = candidates(means, spread=1.0)
    found = race(values, influences, 0.001, False)
    for order in itertools.islice(itertools.permutations(range(7)), 0, 5040, 97):
        again = race([values[c] for c in order], [influences[c] for c in order], 0.001, False)
        assert order[again.leader] == found.leader
        assert tuple(sorted(order[c] for c in again.going_on)) == found.going_on
        assert [again.differences[order.index(c)] for c in range(7)] == list(found.differences)


@pytest.mark.parametrize(
    ("values", "influences", "margin", "message"),
    [
        ([], [], 0.0, "needs candidates"),
        ([[1.0], [1.0, 2.0]], [[None], [None, None]], 0.0, "same training seeds"),
        ([[1.0], [math.nan]], [[None], [None]], 0.0, "finite values"),
        ([[1.0], [2.0]], [[None], [None]], -1.0, "margin"),
        ([[1.0], [2.0]], [[np.zeros(3)], [np.zeros(4)]], 0.0, "paired difference"),
    ],
)
def test_bad_races_are_refused(values: list, influences: list, margin: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        race(values, influences, margin, False)


def test_a_projection_is_orthonormal_nested_and_the_same_for_ever() -> None:
    P = projection(64, 5)
    np.testing.assert_allclose(P.T @ P, np.eye(5), atol=1e-14)
    np.testing.assert_allclose(projection(64, 20)[:, :5], P, atol=1e-14)
    golden = [
        [-0.17408533541136, -0.81756318001423],
        [0.33755645803532, 0.17574112385403],
        [-0.06123366284475, 0.31425451374629],
        [-0.66964567614608, -0.09467800401013],
        [0.62296791529924, -0.33868347705415],
        [-0.12444282660949, 0.27978417144077],
    ]
    np.testing.assert_allclose(projection(6, 2), golden, atol=1e-12)
    whole = projection(8, 8)
    np.testing.assert_allclose(whole @ whole.T, np.eye(8), atol=1e-14)
    for bad in (0, 9):
        with pytest.raises(ValueError, match="to 1 to 8"):
            projection(8, bad)


def test_parts_of_directions_are_all_of_them_in_parts_of_nearly_equal_size() -> None:
    parts = parts_of_directions(64, 24)
    assert [part.shape for part in parts] == [(64, 22), (64, 21), (64, 21)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), projection(64, 64), atol=0)
    assert [part.shape for part in parts_of_directions(5, 5)] == [(5, 5)]
    with pytest.raises(ValueError, match="at least 1 direction"):
        parts_of_directions(5, 0)


def test_distances_on_all_parts_add_up_and_single_parts_favour_settings_by_chance() -> None:
    """Settings that move the mean equally far, each in a direction of its own: a part prefers some, all parts none."""
    rng = np.random.default_rng(0)
    gaps = rng.standard_normal((8, 64))
    gaps /= np.linalg.norm(gaps, axis=1, keepdims=True)
    on_parts = np.array([((gaps @ part) ** 2).sum(axis=1) for part in parts_of_directions(64, 24)])
    np.testing.assert_allclose(on_parts.sum(axis=0), 1, atol=1e-12)
    assert (np.ptp(on_parts, axis=1) > 0.1).all()


def test_a_dimension_for_n_is_the_largest_that_n_samples_suffice_for() -> None:
    for n in [*range(1, 300), 625, 1250, 5000, 27_804, 27_805]:
        d = dimension_for(n)
        assert d == max((k for k in range(1, d + 3) if samples_for_difference(k) <= n and n // 2 > k), default=0)
    assert dimension_for(625) == 163
    assert dimension_for(27_805) == 2048


def test_the_simulated_distance_is_the_metric_and_its_truth_is_its_limit() -> None:
    for source in (digits(8), power_law(8)):
        arm = arms(source, [np.array([1.0, 1.2])], 1, np.random.default_rng(0))[0]
        x = arm.features(Samples(source, 40_000, (0,)), 0, 1)
        value, influence = distance_and_influence(x, source.spectrum)
        known = FID()({"features": x}, {"mean": np.zeros(8), "cov": np.diag(source.spectrum)})
        assert value == pytest.approx(known["values"]["fid"]["extrapolated"], rel=1e-4)
        np.testing.assert_allclose(influence, known["arrays"]["influence"], atol=1e-3 * influence.std())
        assert value == pytest.approx(arm.trained[0, 1], rel=0.05)


def test_the_truth_of_a_wide_sweep_is_the_limit_of_its_samples() -> None:
    sweep, rng = wide(8, 1.0, np.random.default_rng(1)), np.random.default_rng(0)
    for t in (0.0, 0.7):
        x = sweep.samples(t, *rng.standard_normal((2, 200_000, 8), np.float32))
        found = frechet_distance(x.mean(axis=0), np.cov(x.T), sweep.mean, np.diag(sweep.lam))
        assert found == pytest.approx(sweep.truth(t), rel=0.02)


def test_a_race_finds_a_separated_best_with_a_third_of_the_samples() -> None:
    source, rng = power_law(8), np.random.default_rng(0)
    for best in range(6):
        truth = np.full(6, 1.5)
        truth[best] = 1.0
        samples = [Samples(source, 2000, (best, s)) for s in range(3)]
        score = Scores(arms(source, [truth], 3, rng)[0], samples)
        found = search([Axis(6, ordered=False)], score, 2000, 50, 0.013, None)
        assert found.place == (best,)
        assert found.samples <= 0.35 * 6 * 2000


@pytest.mark.parametrize("candidates", [None, 6, 9])
@pytest.mark.parametrize("box", ["range", "list", "range and list", "two ranges", "three"])
def test_no_search_costs_more_than_is_told(box: str, candidates: int | None) -> None:
    """Over random scores without influences, by which nobody leaves early."""
    axes, counts = BOXES[box], rungs(800, 50)
    places, samples = cost_at_most(axes, counts, candidates)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal([axis.size for axis in axes])

        def score(place: Place, n: int, values: np.ndarray = values) -> tuple[list[float], list[np.ndarray | None]]:
            return [float(values[place])], [None]

        chosen = search(axes, score, 800, 50, 0.0, candidates)
        more = 1.1 if candidates is None and sum(axis.ordered for axis in axes) > 1 else 1.0
        assert chosen.tried <= more * places
        assert chosen.samples <= more * samples
