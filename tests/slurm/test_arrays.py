"""Bundles become array tasks of arrays: each once, in good lengths, behind what they wait for. Slurm is not needed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from nag.models.sizes import parameters
from orchestrator.backends.campaign import check_batches
from orchestrator.backends.site import read_site
from orchestrator.backends.slurm.arrays import WORTHWHILE_S, Array, arrays
from orchestrator.backends.slurm.forecast import forecast, makespan
from orchestrator.backends.slurm.limits import (
    CALIBRATED_FROM,
    HOURS,
    ROOM,
    SPEED,
    apply_limits,
    gpu_seconds,
    hold_for_calibration,
)
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.backends.slurm.waves import (
    Wave,
    close_wave,
    create_wave,
    read_array,
    read_stop,
    record_stop,
    waves,
    write_array,
)
from orchestrator.errors import BadInput, SpecError
from orchestrator.execution.protocol import Bundle, Work
from orchestrator.plan.make import plan
from orchestrator.plan.network_sizes import network_of
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store

BLOCK_S = 40.0


def bundle(kind: str, *digests: str, network: str = "", blocks: int = 1, **more: object) -> Bundle:
    numbers = None if kind in ("train", "score") else tuple(range(blocks))
    return Bundle(tuple((digest, numbers) for digest in digests), "plan", kind, network, **more)  # type: ignore[arg-type]


def seconds(each: Bundle) -> float:
    return sum(BLOCK_S * len(blocks) if blocks else 100.0 for _, blocks in each.steps)


def a_sweep(networks: int, cells: int, bundles: int, blocks: int = 8) -> list[Work]:
    """Trainings, the samples of each network, a score for each of its cells."""
    work: list[Work] = []
    for n in range(networks):
        work.append(Work(len(work), bundle("train", f"train{n}")))
    for n in range(networks):
        made: list[int] = []
        for cell in range(cells):
            for part in range(bundles):
                name = f"sample{n}.{cell}.{part}"
                work.append(Work(len(work), bundle("sample", name, network=f"n{n}", blocks=blocks), frozenset([n])))
                made.append(work[-1].handle)
        work += [Work(len(work) + i, bundle("score", f"s{n}.{i}"), frozenset(made)) for i in range(cells)]
    return work


def packed(work: list[Work], site: SlurmSettings, most: int = 1000, known: dict[int, str] | None = None) -> list[Array]:
    return arrays(work, site, seconds, lambda number: f"a{number}", known or {}, most)


@pytest.mark.parametrize("seed", range(20))
def test_every_bundle_is_in_one_array_task_behind_what_it_waits_for(seed: int) -> None:
    draw = random.Random(seed)
    site = SlurmSettings(throttle=draw.choice([1, 3, 64]), target_minutes=draw.choice([2.0, 30.0, 60.0]))
    most = draw.choice([2, 7, 1000])
    work = a_sweep(draw.randint(1, 4), draw.randint(1, 6), draw.randint(1, 5), draw.randint(1, 8))
    found = packed(work, site, most)
    place = {h: (a.name, index) for a in found for index, task in enumerate(a.tasks) for h in task.handles}
    assert sorted(place) == [each.handle for each in work]
    assert [h for a in found for e in a.tasks for h in e.handles if h not in place] == []
    order = [array.name for array in found]
    by_name = {array.name: array for array in found}
    for each in work:
        mine = by_name[place[each.handle][0]]
        for handle in each.after:
            name, index = place[handle]
            exact = by_name[name].kind == "train"
            assert (f"{name}/{index}" if exact else name) in mine.after
            assert order.index(name) < order.index(mine.name)
    for array in found:
        assert 1 <= len(array.tasks) <= most
        assert 1 <= array.throttle <= site.throttle
        assert len({(b.kind, b.network, b.doublings) for e in array.tasks for b in e.bundles}) == 1
        for task in array.tasks:
            assert len(task.bundles) == 1 or sum(map(seconds, task.bundles)) <= site.target_minutes * 60
            assert array.kind != "train" or len(task.bundles) == 1


def test_array_tasks_are_as_many_as_may_run_but_not_too_short() -> None:
    work = [each for each in a_sweep(1, 40, 1, blocks=1) if each.bundle.kind == "sample"]  # 40 bundles of 40 s
    wide = packed(work, SlurmSettings(throttle=512, target_minutes=30))
    narrow = packed(work, SlurmSettings(throttle=4, target_minutes=30))
    assert [len(array.tasks) for array in wide] == [len(work) // int(WORTHWHILE_S // BLOCK_S) + 1]
    assert [len(array.tasks) for array in narrow] == [4]


def test_what_is_tried_again_differently_stands_apart() -> None:
    work = [
        Work(1, bundle("sample", "a", network="n")),
        Work(2, bundle("sample", "b", network="n", doublings=2)),
        Work(3, bundle("sample", "c", network="n", micro_batch=8)),
        Work(4, bundle("sample", "d", network="n", avoid=("n1",))),
        Work(5, bundle("sample", "e", network="n")),
    ]
    found = packed(work, SlurmSettings(memory_gb_at_most=40))
    assert [(array.resources.memory_gb, array.avoid) for array in found] == [(16, ()), (40, ()), (16, ("n1",))]
    assert [task.handles for task in found[0].tasks] == [
        (1,),
        (3,),
        (5,),
    ]  # micro-batches are not mixed


def test_what_earlier_waves_do_is_waited_for() -> None:
    found = packed(
        [Work(9, bundle("sample", "a"), frozenset([1, 2, 3]))], SlurmSettings(), known={1: "old/4", 2: "other"}
    )
    assert found[0].after == ("old/4", "other")


def test_what_is_queued_first_where_no_speed_is_measured() -> None:
    work = a_sweep(2, 10, 2)

    def sort(each: Work) -> str | None:
        return each.bundle.network if each.bundle.kind == "sample" else None

    later = hold_for_calibration(work, sort, throttle=4)
    now = [each for each in work if each.handle not in later]
    assert [each.bundle.kind for each in now] == ["train", "train", "sample", "sample"]  # one of each network
    assert set(later.values()) == {SPEED}
    assert hold_for_calibration(work, sort, throttle=20 // CALIBRATED_FROM) == {}


def test_what_fits_into_the_queue_and_into_the_hours() -> None:
    found = packed(a_sweep(2, 4, 2), SlurmSettings(throttle=64, target_minutes=6))
    kinds = [array.kind for array in found]
    assert kinds == ["train", "sample", "score", "sample", "score"]
    sizes = [len(array.tasks) for array in found]
    kept, left = apply_limits(found, sizes[0] + sizes[1] + sizes[2], None)
    assert [array.kind for array in kept] == ["train", "sample", "score"]
    assert set(left.values()) == {ROOM}
    kept, left = apply_limits(found, None, gpu_seconds(found[0]) + gpu_seconds(found[1]))
    assert [array.kind for array in kept] == ["train", "sample", "score"]  # scores take no GPU
    assert left == dict.fromkeys([found[3].name, found[4].name], HOURS)
    assert apply_limits(found, None, None) == (found, {})
    assert apply_limits(found, 0, None)[0] == []


def test_an_array_is_the_same_when_it_is_read_again(tmp_path: object) -> None:
    store = Store(str(tmp_path))
    wave = create_wave(store, "sweep", {"arrays": 2, "time": 1.0, "folder": "x"})
    second = create_wave(store, "sweep", {"arrays": 0, "time": 1.0, "folder": "x"})
    assert (wave.number, second.number) == (1, 2)
    odd = Bundle((("a", (0, 3)), ("b", (0,)), ("c", None)), "plan", "sample")
    for place, array in enumerate(packed([*a_sweep(2, 3, 2), Work(99, odd)], SlurmSettings())):
        write_array(store, wave, place, array)
        kept = read_array(store, wave.array_name(place))
        assert [e.bundles for e in kept.tasks] == [e.bundles for e in array.tasks]
        assert (kept.after, kept.resources, kept.throttle) == (array.after, array.resources, array.throttle)
    close_wave(store, wave)
    assert [each.number for each in waves(store, "sweep")] == [2]
    assert [each.number for each in waves(store, "sweep", closed=True)] == [1, 2]


def test_what_the_user_ended_adds_up(tmp_path: object) -> None:
    store, wave = Store(str(tmp_path)), Wave("sweep", 1)
    assert read_stop(store, wave) is None
    record_stop(store, wave, ["a"], whole=False)
    record_stop(store, wave, ["b"], whole=False)
    found = read_stop(store, wave)
    assert found is not None
    assert (found.covers(["a", "b"]), found.covers(["a", "c"]), found.whole) == (True, False, False)
    record_stop(store, wave, None)
    found = read_stop(store, wave)
    assert found is not None
    assert (found.covers(["z"]), found.whole) == (True, True)


def test_a_throttle_and_a_number_of_gpus_bound_the_simulation() -> None:
    (array,) = packed([each for each in a_sweep(1, 64, 1) if each.bundle.kind == "sample"], SlurmSettings(throttle=8))
    lasting = {array.name: [100.0] * len(array.tasks)}
    turns = -(-len(array.tasks) // 8)
    assert makespan([array], lasting) == pytest.approx(100.0 * turns)
    assert makespan([array], lasting, gpus=2) == pytest.approx(100.0 * -(-len(array.tasks) // 2))


LARGE = """\
kind: slurm
stages: {train: {gpus: 2}}
networks:
  xl: {train: {gpus: 8, memory_gb: 64}, sample: {memory_gb: 40, minutes: 180}}
  middle: {parameters_above: 1e8, train: {gpus: 4, memory_gb: 48}}
  giants: {parameters_above: 1e9, train: {memory_gb: 96}}
"""


def test_a_network_gets_what_its_name_or_its_size_asks(tmp_path: Path) -> None:
    """A name goes before a size, and a larger size before a smaller one."""
    (tmp_path / "site.yaml").write_text(LARGE)
    site = read_site(str(tmp_path / "site.yaml")).settings

    def asked(stage: str, *network: object) -> tuple[int, float]:
        resources = site.resources(stage, *network)
        return resources.gpus, resources.memory_gb

    assert asked("train") == asked("train", "s", 1e7) == asked("train", "middle", 1e7) == (2, 32)
    assert asked("train", "l", 4e8) == (4, 48)
    assert asked("train", "h", 2e9) == (4, 96)
    assert asked("train", "xl", 2e9) == (8, 64)
    assert (asked("sample", "xl"), asked("extract", "xl")) == ((1, 40), (1, 16))
    assert (site.trained_on("xl"), site.trained_on("s")) == (8, 2)
    assert site.trained_words("l", 4e8) == "networks.middle.train has 1 x 4 GPUs"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "  xl: {sample: {memry: 4}}",
            ":3: networks.xl.sample: unknown key 'memry'. Did you mean 'memory_gb'?",
        ),
        ("  xl: {score: {gpus: 1}}", "site.yaml:3: networks.xl: unknown key 'score'"),
        ("  xl: {sample: {minutes: 10}}", "target_minutes is 30, but networks.xl.sample.minutes"),
        ("  xl: {parameters_above: many}", "site.yaml:3: networks.xl.parameters_above: expected a number"),
        ("  xl: 4", "site.yaml:3: networks.xl"),
    ],
)
def test_mistakes_in_networks(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "site.yaml").write_text(f"kind: slurm\nnetworks:\n{line}\n")
    with pytest.raises(SpecError) as error:
        read_site(str(tmp_path / "site.yaml"))
    assert words in str(error.value)


TWO = """\
name: two
networks:
  s:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 8, batch: 16, lr: 1e-2}
  xl:
    data: {name: digits}
    model: {name: sit, hidden: 64, depth: 2, heads: 2, patch: 4}
    train: {steps: 8, batch: 16, lr: 1e-2}
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20}
score: {features: [pixels], metrics: [fid]}
arms:
  small: {network: s}
  large: {network: xl}
"""


def test_trainings_of_two_sizes_are_two_arrays_and_their_processes_are_checked(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(TWO)
    planned = plan(read_sweep(str(tmp_path / "sweep.yaml")))
    sizes = dict(network_of(planned, digest) for digest in planned.instances)
    assert sizes == {"s": parameters(16, 1), "xl": parameters(64, 2)}
    assert parameters(1152, 28) == pytest.approx(675e6, rel=0.02)  # SiT-XL/2
    (tmp_path / "site.yaml").write_text(f"{LARGE}  wide: {{parameters_above: 1e5, sample: {{cpus: 9}}}}\n")
    site = read_site(str(tmp_path / "site.yaml"))
    store = Store(str(tmp_path / "store"))
    store.open()
    packed = forecast(planned, store, site.settings).arrays
    assert sorted(a.resources.gpus for a in packed if a.kind == "train") == [2, 8]
    assert sorted((a.resources.memory_gb, a.resources.cpus) for a in packed if a.kind == "sample") == [(16, 4), (40, 9)]
    check_batches(planned, site)
    (tmp_path / "site.yaml").write_text(LARGE.replace("gpus: 8", "gpus: 7"))
    with pytest.raises(BadInput, match=r"networks.xl.train has 1 x 7 GPUs, and networks.xl.train.batch"):
        check_batches(planned, read_site(str(tmp_path / "site.yaml")))


def test_processes_that_share_a_gpu_have_bundles_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "kind: slurm\nthrottle: 2\nstages: {sample: {per_gpu: 4}, train: {per_gpu: 3}}\n"
    )
    shared, alone = read_site(str(tmp_path / "site.yaml")).settings, SlurmSettings(throttle=2)
    work = [Work(n, bundle("sample", f"s{n}", network="n", blocks=8)) for n in range(64)]
    one, four = (arrays(work, each, seconds, str, {}, 1001)[0] for each in (alone, shared))
    assert (one.lanes, four.lanes) == (1, 4)
    longest, least = (max(len(task.bundles) for task in array.tasks) for array in (four, one))
    assert 4 * least <= longest < 4 * (least + 1)
    assert gpu_seconds(four) == gpu_seconds(one) / 4
    few = arrays(work[:8], shared, seconds, str, {}, 1001)[0]
    assert [len(task.bundles) for task in few.tasks] == [4, 4]
    trainings = [Work(n, bundle("train", f"t{n}")) for n in range(7)]
    (trained,) = arrays([*trainings], shared, seconds, str, {}, 1001)
    assert [len(task.bundles) for task in trained.tasks] == [3, 3, 1]
    after = Work(9, bundle("sample", "s", network="n"), frozenset([4]))
    assert arrays([*trainings, after], shared, seconds, str, {}, 1001)[1].after == ("0/1",)


@pytest.mark.parametrize("line", ["train: {gpus: 2, per_gpu: 2}", "sample: {nodes: 2, per_gpu: 2}"])
def test_a_gpu_is_not_shared_by_what_works_together(tmp_path: Path, line: str) -> None:
    (tmp_path / "site.yaml").write_text(f"kind: slurm\nstages: {{{line}}}\n")
    with pytest.raises(SpecError, match=r"per_gpu is 2, but it has \d x \d GPUs that work on one task together"):
        read_site(str(tmp_path / "site.yaml"))
