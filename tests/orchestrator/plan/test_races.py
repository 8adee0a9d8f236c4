"""Races in a plan, and what follows from the choices that a store has so far."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import BadInput, CorruptFile
from orchestrator.identity import canonical, checksum
from orchestrator.plan.choices import Choices
from orchestrator.plan.make import only_cell, plan
from orchestrator.plan.model import Budget, Choice, Plan, Race, StoredCell, StoredPlan, only_arms
from orchestrator.plan.progress import Done, missing
from orchestrator.plan.stored_plan import document, plan_checksum, read_plan
from orchestrator.report.progress import shape
from orchestrator.report.races import too_few_at_first
from orchestrator.spec.parameters import is_seed
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import plan_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import changed, nagbench

SAMPLERS = "{grid: [{name: euler, steps: 2}, {name: heun, steps: 1}]}"
CFG, NAG = "{tune: [1.5, 2, 3]}", "{tune: {low: 0, high: 4}}"
SWEEP = f"""\
name: races
networks:
  sit:
    data: {{name: digits}}
    model: {{name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}}
    train: {{steps: 8, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2, seed: {{grid: [0, 1]}}}}
sampler: {SAMPLERS}
sample: {{count: 500, block: 100}}
score: {{features: [pixels], metrics: [fid, precision_recall]}}
tune: {{metric: fid, seed: 1, count: 400}}
arms:
  plain: {{}}
  cfg: {{cfg: {{scale: {CFG}}}}}
  nag: {{nag: {{scale: {NAG}}}}}
  matched: {{cfg: {{scale: {{match: nag}}}}, against: nag}}
"""
RUNGS = (100, 200, 400)  # of 400 samples in blocks of 100
Make = Callable[..., Plan]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(old, new, ...)`: the plan of the sweep with replacements."""

    def made(*changes: str, arms: Iterable[str] | None = None) -> Plan:
        (tmp_path / "sweep.yaml").write_text(changed(SWEEP, *changes))
        return plan(read_sweep(tmp_path / "sweep.yaml"), None if arms is None else frozenset(arms))

    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(str(tmp_path / "store"))
    opened.open()
    return opened


def race_of(planned: StoredPlan, arm: str, sampler: str = "euler") -> Race:
    return next(race for race in planned.races if race.arm == arm and race.params.get("sampler") == sampler)


def now(planned: StoredPlan, store: Store) -> StoredPlan:
    return Choices(planned, store).current(Done(store))


def arms_of(cells: Iterable[StoredCell]) -> list[tuple[str, Any]]:
    return [(cell.arm, cell.params["sampler"]) for cell in cells]


def record(planned: StoredPlan, store: Store, race: Race, step: int, **given: Any) -> None:
    """What a `select` task would write: everybody scored at the count of this step."""
    places = given.pop("places", [candidate.place for candidate in race.candidates])
    row = {"value": 1.0, "corrected": 1.0, "difference": 0.1, "low": -0.1, "high": 0.3}
    whole = {
        "count": RUNGS[step],
        "score": "fid",
        "scored": [{"place": list(place), **row} for place in places],
        "leader": list(places[0]),
        "chosen": None,
        "next": None,
        "tried": sorted(map(list, places)),
        **{"files": {}, "started": 1.0, "seconds": 1.0},
    }
    store.create_record(planned.tasks[race.steps[step]].record_name, whole | given)


def test_one_for_each_arm_and_combination_outside_it(make: Make) -> None:
    """Two samplers on a grid at the top level are two choices; training seeds share one."""
    planned = make()
    found = [(race.arm, race.params["sampler"], race.follows is None) for race in planned.races]
    assert sorted(found) == sorted(
        (arm, sampler, own)
        for arm, own in (("cfg", True), ("nag", True), ("matched", False))
        for sampler in ("euler", "heun")
    )
    assert arms_of(planned.cells) == [("plain", "euler"), ("plain", "heun")] * 2
    for race in planned.races:
        assert not any(map(is_seed, race.params))
        assert {len(candidate.cells) for candidate in race.candidates} == {2}
        assert len(race.candidates) == (3 if race.arm == "cfg" else 9)
    cfg, nag = race_of(planned, "cfg"), race_of(planned, "nag")
    assert (cfg.axes, nag.axes) == (((3, False),), ((9, True),))
    assert [dict(candidate.params) for candidate in cfg.candidates] == [{"cfg.scale": scale} for scale in (1.5, 2, 3)]
    assert all(len(candidate.streams) == len(candidate.extracts) == 2 for candidate in nag.candidates)
    followed = planned.races[race_of(planned, "matched", "heun").follows or 0]
    assert (followed.arm, followed.params["sampler"]) == ("nag", "heun")


def test_a_grid_inside_the_arm_has_choices_too(make: Make) -> None:
    planned = make(f"nag: {{scale: {NAG}}}", f"nag: {{scale: {NAG}, interval: {{high: {{grid: [0.5, 1.0]}}}}}}",
                   "  matched: {cfg: {scale: {match: nag}}, against: nag}\n", "")  # fmt: skip
    found = {(race.params["sampler"], race.params["nag.interval.high"]) for race in planned.races if race.arm == "nag"}
    assert found == {("euler", 0.5), ("euler", 1.0), ("heun", 0.5), ("heun", 1.0)}


def test_the_chosen_cell_is_the_one_written_by_hand(make: Make) -> None:
    """So a sweep without `tune` finds its samples and scores, and the other way round; a matched one too."""
    planned, by_hand = make(), make(CFG, "2", NAG, "1.5")
    written = {cell.digest: cell for cell in by_hand.cells}
    chosen = [
        cell
        for race in planned.races
        for candidate in race.candidates
        if candidate.place == ((1,) if race.arm == "cfg" else (3,))
        for cell in candidate.cells
    ]
    assert len(chosen) == 3 * 2 * 2
    assert written.keys() == {cell.digest for cell in (*planned.cells, *chosen)}
    for cell in chosen:
        twin = written[cell.digest]
        assert (cell.arm, cell.stream, cell.extracts) == (twin.arm, twin.stream, twin.extracts)
        assert [scored.task for scored in cell.scores] == [scored.task for scored in twin.scores]


def test_streams_of_a_choice_differ_by_their_seed(make: Make) -> None:
    planned = make()
    for race in planned.races:
        for candidate in race.candidates if race.follows is None else ():
            for cell, stream in zip(candidate.cells, candidate.streams, strict=True):
                own, tried = planned.tasks[cell.stream].params, planned.tasks[stream].params
                assert (own["seed"], tried["seed"]) == (0, 1)
                assert {**own, "seed": None} == {**tried, "seed": None}
    assert set(planned.blocks.values()) == {4, 5}


def kept(store: Store, stored: dict[str, Any]) -> str:
    """Under its right name."""
    name = checksum(canonical(stored).encode())
    store.create_record(plan_name(name), stored)
    return name


def test_the_store_keeps_races(make: Make, store: Store) -> None:
    planned = make()
    first = read_plan(store, kept(store, document(planned)))
    assert plan_checksum(first) == plan_checksum(planned)
    assert read_plan(store, kept(store, document(first))) == first
    assert [replace(race, candidates=()) for race in first.races] == [
        replace(race, candidates=()) for race in planned.races
    ]
    record(planned, store, race_of(planned, "nag"), 0, chosen=[3])
    ours, theirs = now(planned, store), now(first, store)
    assert [cell.digest for cell in ours.cells] == [cell.digest for cell in theirs.cells]
    assert (ours.goals, ours.blocks) == (theirs.goals, theirs.blocks)
    assert Choices(planned, store).told(Done(store)) == Choices(first, store).told(Done(store))


def _races(stored: dict[str, Any], follows: bool) -> list[dict[str, Any]]:
    return [race for race in stored["races"] if (race["follows"] is not None) is follows]


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a place off its axes": lambda d: d["races"][0]["candidates"][0].update(place=[3]),
    "a place before its axes": lambda d: d["races"][0]["candidates"][0].update(place=[-1]),
    "a place on more axes": lambda d: d["races"][0]["candidates"][0].update(place=[0, 0]),
    "an extract that is not there": lambda d: d["races"][0]["candidates"][0].update(extracts=["0" * 32]),
    "a stream that is an extract": lambda d: d["races"][0]["candidates"][0].update(
        streams=d["races"][0]["candidates"][0]["extracts"]
    ),
    "a step that is a score": lambda d: d["races"][0].update(steps=[d["cells"][0]["scores"][0][1]]),
    "no steps": lambda d: d["races"][0].update(steps=[]),
    "no candidates": lambda d: d["races"][0].update(candidates=[]),
    "a count of none": lambda d: d["races"][0].update(count=0),
    "a limit of one": lambda d: d["races"][0].update(limit=1),
    "a metric with the name of a path": lambda d: d["races"][0].update(metric="a/b"),
    "an arm that is not there": lambda d: d["races"][0].update(arm="nobody"),
    "a follower with steps": lambda d: _races(d, True)[0].update(steps=d["races"][0]["steps"]),
    "a follower of itself": lambda d: _races(d, True)[0].update(follows=len(_races(d, False))),
    "a follower of none": lambda d: _races(d, True)[0].update(follows=99),
    "a follower from the end": lambda d: _races(d, True)[0].update(follows=-3),
    "a follower without a place": lambda d: _races(d, True)[0]["candidates"].pop(),
    "races that are numbers": lambda d: d.update(races=[3]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_races(make: Make, damage: str) -> None:
    """Whoever writes to the store can write a plan: it is used only as it should be."""
    store = Store(f"memory://races-{damage.replace(' ', '-')}")
    whole = json.loads(canonical(document(make())))
    assert read_plan(store, kept(store, whole)).sweep.name == "races"
    DAMAGES[damage](whole)
    with pytest.raises(CorruptFile, match="is not a plan"):
        read_plan(store, kept(store, whole))


def test_what_is_wanted_before_anything_ran(make: Make, store: Store) -> None:
    """The untuned cells whole, and one rung of the coarse candidates; nothing on the samples of the comparison."""
    planned = make()
    first = now(planned, store)
    assert {cell.arm for cell in first.cells} == {"plain"}
    cfg, nag = race_of(planned, "cfg"), race_of(planned, "nag")
    assert {nag.steps[0], cfg.steps[0]} <= first.goals
    assert not {*nag.steps[1:], *cfg.steps[1:]} & first.tasks.keys()
    coarse = {candidate.place for candidate in nag.candidates if set(candidate.streams) <= first.tasks.keys()}
    assert coarse == {(0,), (2,), (4,), (6,), (8,)}
    assert all(first.blocks[stream] == 1 for candidate in cfg.candidates for stream in candidate.streams)
    todo = missing(first, Done(store))
    assert {first.tasks[digest].params["seed"] for digest in todo if first.tasks[digest].kind == "sample"} == {0, 1}
    drawn = sum(len(blocks or ()) for digest, blocks in todo.items() if first.tasks[digest].kind == "sample")
    assert drawn == 2 * (2 * 5 + 2 * (3 + 5))  # samplers, then seeds: plain's blocks, and one of each candidate


def test_a_race_from_rung_to_rung(make: Make, store: Store) -> None:
    planned = make()
    cfg = race_of(planned, "cfg")
    record(planned, store, cfg, 0, next={"candidates": [[0], [2]], "count": 200})
    second = now(planned, store)
    assert cfg.steps[1] in second.goals
    assert cfg.steps[2] not in second.tasks
    wanted = [second.blocks.get(candidate.streams[0]) for candidate in cfg.candidates]
    assert wanted == [2, None, 2]
    extracts = {extract for candidate in cfg.candidates for extract in candidate.extracts}
    inputs = set(second.tasks[cfg.steps[1]].inputs)
    assert inputs & extracts == {*cfg.candidates[0].extracts, *cfg.candidates[2].extracts}
    assert second.tasks[cfg.steps[1]].digest == cfg.steps[1]
    told = choice(planned, store, cfg)
    assert (told.left, told.chosen, told.samples) == (2, None, 2 * 3 * 100)
    assert told.leader is not None
    assert told.leader.place == (0,)
    assert told.exhaustive == 2 * 3 * 400
    record(planned, store, cfg, 1, places=[(0,), (2,)], chosen=[2], leader=[2])
    last = now(planned, store)
    assert cfg.steps[2] not in last.tasks
    assert [cell.params["cfg.scale"] for cell in last.cells if cell.arm == "cfg"] == [3, 3]
    assert {scored.task for cell in last.cells if cell.arm == "cfg" for scored in cell.scores} <= last.goals
    told = choice(planned, store, cfg)
    assert told.chosen is not None
    assert (told.left, told.chosen.params, told.samples) == (1, {"cfg.scale": 3}, 2 * (100 + 200 + 200))
    assert told.evaluations == told.samples * 2 * 2  # steps, and networks of each


def choice(planned: StoredPlan, store: Store, race: Race) -> Choice:
    told = Choices(planned, store).told(Done(store))
    return next(each for each in told if (each.arm, each.params) == (race.arm, race.params))


def test_followers_take_what_was_chosen(make: Make, store: Store) -> None:
    """The arm that matches waits for the measure of the chosen setting, and chooses nothing itself."""
    planned = make()
    record(planned, store, race_of(planned, "nag"), 0, chosen=[3])
    found = now(planned, store)
    assert {cell[0] for cell in arms_of(found.cells)} == {"plain", "nag", "matched"}
    assert arms_of(cell for cell in found.cells if cell.arm in ("nag", "matched")) == [
        *[("nag", "euler")] * 2,
        *[("matched", "euler")] * 2,
    ]
    streams = {cell.arm: cell.stream for cell in found.cells if cell.params["sampler"] == "euler"}
    measures = [task for task in found.tasks.values() if task.kind == "measure"]
    assert {task.params["stream"] for task in measures} >= {streams["nag"]}
    assert {task.digest for task in measures} == set(found.tasks[streams["matched"]].inputs) - {
        *(digest for digest, task in found.tasks.items() if task.kind == "train")
    }
    assert {each.arm for each in Choices(planned, store).told(Done(store))} == {"cfg", "nag"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chosen": [7]}, "it has no candidate"),
        ({"next": {"candidates": [[0], [9]], "count": 200}}, "it has no candidate"),
        ({"next": {"candidates": [], "count": 200}}, "no candidates, or a count"),
        ({"next": {"candidates": [[0]], "count": 500}}, "no candidates, or a count"),
        ({"next": {"candidates": [[0]]}}, "'count'"),
        ({}, "NoneType"),
    ],
)
def test_a_record_of_another_race(make: Make, store: Store, given: dict[str, Any], message: str) -> None:
    planned = make()
    cfg = race_of(planned, "cfg")
    record(planned, store, cfg, 0, **given)
    name = planned.tasks[cfg.steps[0]].record_name
    with pytest.raises(CorruptFile, match=f"{name} is not a step of the race of arm cfg: .*{message}.*; remove it"):
        now(planned, store)


@pytest.mark.parametrize("given", [{"chosen": 7}, {"leader": None}, {"scored": [{"place": [0]}]}, {"tried": 3}])
def test_a_record_of_another_shape(make: Make, store: Store, given: dict[str, Any]) -> None:
    """It counts as not made yet, and the next run makes it again."""
    planned = make()
    cfg = race_of(planned, "cfg")
    record(planned, store, cfg, 0, chosen=[0])
    assert now(planned, store).cells != planned.cells
    store.delete(planned.tasks[cfg.steps[0]].record_name)
    record(planned, store, cfg, 0, **{"chosen": [0], **given})
    assert now(planned, store).cells == planned.cells
    assert cfg.steps[0] in now(planned, store).goals


def test_parts_of_a_plan(make: Make, store: Store) -> None:
    """Arms by name: the one that matches brings the race that it follows, without its cells."""
    whole = make()
    for part in (only_arms(whole, ["matched"]), make(arms=["matched"])):
        assert [(race.arm, race.follows) for race in part.races] == [
            *[("nag", None)] * 2,
            *(("matched", place) for place in (0, 1)),
        ]
        assert not any(candidate.cells for race in part.races[:2] for candidate in race.candidates)
        assert not part.whole
    record(whole, store, race_of(whole, "nag"), 0, chosen=[3])
    part = make(arms=["matched"])
    assert arms_of(now(part, store).cells) == [("matched", "euler")] * 2
    theirs = [cell.digest for cell in now(whole, store).cells if cell.arm == "matched"]
    assert [cell.digest for cell in now(part, store).cells] == theirs
    alone = make(arms=["cfg"])
    assert {race.arm for race in alone.races} == {"cfg"}
    assert only_arms(whole, ["cfg", "nag"]).cells == ()


def test_budgets(make: Make, store: Store) -> None:
    """Of 2 training seeds. cfg: 3 at 100 samples, 2 at 200 and 400. nag: 5 coarse values at 100, 4 at 200, 2 at 400;
    then two finer ones with the best: 3 at 100, 2 at 200 and 400.
    """
    planned = make()
    cfg = 2 * (3 * 100 + 2 * 300)
    nag = 2 * (5 * 100 + 4 * 100 + 2 * 200 + 3 * 100 + 2 * 300)
    assert choice(planned, store, race_of(planned, "cfg")).allowed == Budget(3, cfg, 4.0 * cfg)
    allowed = choice(planned, store, race_of(planned, "nag")).allowed
    assert allowed == Budget(7, nag, pytest.approx(nag * 2 * (1 + 8 * 2) / 9))  # nag with scale 0 is one network
    limited = make("count: 400}", "count: 400, candidates: 6}")  # 4 spread over the range, then 2 near the best
    assert choice(limited, store, race_of(limited, "nag")).allowed[:2] == (
        6,
        2 * (4 * 100 + 3 * 100 + 2 * 200 + 3 * 100 + 2 * 300),
    )


def test_its_size_in_words(make: Make, tmp_path: Path) -> None:
    """2 samplers and 2 training seeds: 4 cells of each arm; 3 and 9 candidates for each sampler."""
    planned = make()
    words = "16 cells in 4 arms, 12 of them chosen among 24 candidates, 2 trainings."
    assert shape(planned) == words
    checked = nagbench("check", tmp_path / "sweep.yaml")
    assert checked.stdout.endswith(f"\n{tmp_path / 'sweep.yaml'}: good. {words}\n")
    told = json.loads(nagbench("check", tmp_path / "sweep.yaml", "--json").stdout)
    assert (told["cells"], told["candidates"]) == (16, 24)
    assert words in nagbench("plan", tmp_path / "sweep.yaml", "--store", tmp_path / "store").stdout
    assert shape(make(CFG, "2", NAG, "1.5")) == "16 cells in 4 arms, 2 trainings."


def test_check_warns_of_a_race_that_begins_with_too_few_samples(make: Make, tmp_path: Path) -> None:
    """64 pixels take 154 samples: an eighth of 1,232, in blocks of 100 of 801. KID has no bias in N."""
    planned = make()
    words = (
        "tune.count: a race by fid begins with 100 of 400 samples, and differences in 64 dimensions take 154. With "
        "fewer, settings leave by rank alone, and a race can miss the one that all samples would choose; with a count "
        "of 1,232 it begins with enough."
    )
    assert too_few_at_first(planned) == [words]
    assert f"warning: {words}" in nagbench("check", tmp_path / "sweep.yaml").stdout.splitlines()
    assert words in json.loads(nagbench("check", tmp_path / "sweep.yaml", "--json").stdout)["warnings"]
    assert too_few_at_first(make("count: 400", "count: 800"))
    assert not too_few_at_first(make("count: 400", "count: 801"))
    assert not too_few_at_first(make("count: 400", "count: 100"))
    assert not too_few_at_first(make("metrics: [fid", "metrics: [kid", "metric: fid", "metric: kid"))
    assert not too_few_at_first(make(CFG, "2", NAG, "1.5"))


def test_one_cell_of_a_tuned_arm(make: Make) -> None:
    """A candidate can be planned by itself, on the samples of the comparison; a matched one cannot."""
    planned = make()
    tuned, matched = (race_of(planned, arm).candidates[1].cells[0] for arm in ("cfg", "matched"))
    alone = plan(only_cell(planned.sweep, tuned.digest[:12], None))
    assert [cell.digest for cell in alone.cells] == [tuned.digest]
    assert not alone.races
    with pytest.raises(BadInput, match="matches arm nag"):
        only_cell(planned.sweep, matched.digest[:12], None)
