"""Retries: every line of the table at the top of execution/retries.py."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.execution.retries import STOPPED, Decision, alike, decide, hopeless

REASONS = {
    "preempted": "it was preempted",
    "node": "its node failed",
    "environment": "the store cannot be written",
    "timeout": "it reached its time limit",
    "host_memory": "it used more memory than it requested",
    "device_memory": "CUDA out of memory",
    "died": "signal 9",
    "lost": "it is gone",
    "cancelled": "somebody ended it",
    "bad_input": "bad shape",
    "not_finite": "the loss is nan",
    "stopped": STOPPED,
}


def attempt(cause: str, at: int = 0, kind: str = "sample", **more: Any) -> dict[str, Any]:
    return {"cause": cause, "reason": REASONS[cause], "at": at, "kind": kind, **more}


def times(count: int, cause: str, at: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [attempt(cause, at, **more) for _ in range(count)]


@pytest.mark.parametrize("cause", ["preempted", "node", "environment", "timeout", "died", "lost", "cancelled"])
def test_the_first_time_it_is_tried_again_as_it_was(cause: str) -> None:
    assert decide(times(1, cause)) == Decision()


def test_no_attempts() -> None:
    assert decide([]) == Decision()


@pytest.mark.parametrize("cause", ["bad_input", "not_finite", "stopped"])
def test_hopeless_is_not_tried_again(cause: str) -> None:
    """Whatever happened before or after: another bundle of the stream may have been preempted since."""
    for attempts in ([attempt(cause)], [attempt("died"), attempt(cause), attempt("preempted", at=5)]):
        assert decide(attempts).give_up == REASONS[cause]


def test_preemption_is_free() -> None:
    assert decide(times(500, "preempted")) == Decision()
    assert decide(times(500, "preempted") + times(2, "died")) == Decision()


@pytest.mark.parametrize("cause", ["died", "lost", "cancelled"])
def test_unknown_ends_are_bounded_at_one_place(cause: str) -> None:
    assert decide(times(2, cause)) == Decision()
    assert decide(times(3, cause)).give_up == f"{REASONS[cause]}, for the third time"
    mixed = [attempt("died"), attempt("preempted"), attempt("lost"), attempt("cancelled"), attempt("preempted")]
    assert decide(mixed).give_up == "somebody ended it, for the third time"


def test_what_gets_on_may_die_often() -> None:
    training = [attempt("died", at=step, kind="train") for step in range(0, 10_000, 500)]
    assert decide(training) == Decision()
    assert decide([*training, *times(2, "died", at=9500, kind="train")]).give_up


def test_a_machine_that_takes_many_blocks_uses_up_one_try_of_each() -> None:
    """Eight bundles of one stream ran on it, each at a block of its own."""
    for cause in ("died", "node", "timeout", "lost"):
        assert not decide([attempt(cause, at=block) for block in range(0, 64, 8)]).give_up
        assert not decide([attempt(cause, at=block) for block in range(0, 64, 8)]).single
    again = [attempt("died", at=block) for _ in range(2) for block in range(0, 64, 8)]
    assert not decide(again).give_up
    assert decide([*again, attempt("died", at=8)]).give_up


@pytest.mark.parametrize("cause", ["node", "environment"])
def test_what_passes_is_tried_longer(cause: str) -> None:
    assert not decide(times(7, cause, host="n1")).give_up
    assert decide(times(8, cause)).give_up == f"{REASONS[cause]}; that happened 8 times"
    assert not decide(times(7, "node") + times(2, "died") + times(9, "preempted")).give_up


def test_after_a_failure_of_its_node_it_goes_elsewhere() -> None:
    def hosts(*names: str) -> tuple[str, ...]:
        return decide([attempt("node", at=place, host=name) for place, name in enumerate(names)]).avoid

    assert hosts("n1") == ("n1",)
    assert hosts("n1", "n2", "n1") == ("n2", "n1")
    assert hosts("n1", "n2", "n3", "n4", "n5") == ("n2", "n3", "n4", "n5")
    assert hosts("") == ()
    assert decide([attempt("died", host="n1"), attempt("preempted", host="n2")]).avoid == ()


def test_a_bundle_without_progress_is_split_and_then_given_up() -> None:
    assert [decide(times(count, "timeout")).single for count in (1, 2, 3)] == [False, True, True]
    assert decide(times(4, "timeout")).give_up == (
        "it reached its time limit; one block does not fit into it: raise the minutes of the stage"
    )


def test_timeouts_on_the_way_do_not_count() -> None:
    """It goes on at the next block each time."""
    assert decide([attempt("timeout", at=block) for block in range(100)]) == Decision()
    assert decide([attempt("timeout", at=step, kind="train") for step in range(0, 1000, 50)]) == Decision()


def test_what_cannot_be_split_has_three_tries_without_progress() -> None:
    assert not decide(times(2, "timeout", at=300, kind="train")).give_up
    assert decide(times(3, "timeout", at=300, kind="train")).give_up == (
        "it reached its time limit; it does not fit into it: raise the minutes of the stage"
    )


def test_memory_of_the_host_is_doubled_up_to_the_bound() -> None:
    assert decide([attempt("host_memory")]).doublings == 1
    assert decide([attempt("host_memory", doublings=0), attempt("host_memory", doublings=1)]).doublings == 2
    late = [attempt("host_memory", doublings=1), attempt("host_memory", at=9, doublings=0)]
    assert decide(late).doublings == 2  # another bundle of the first wave says so later
    words = "it used more memory than it requested; it already had the most memory that the site allows"
    assert decide([attempt("host_memory", at_memory_bound=True)]).give_up == words
    assert decide([attempt("host_memory", doublings=3)]).give_up == words
    assert decide([attempt("host_memory"), attempt("died", doublings=1)]).doublings == 1  # it stays doubled


def test_only_memory_makes_the_bound_matter() -> None:
    """A site may give the most that it allows from the start."""
    for cause in ("preempted", "node", "died", "timeout", "device_memory"):
        assert not decide([attempt(cause, at_memory_bound=True, micro_batch=8)]).give_up


def test_memory_of_the_device_halves_the_micro_batch() -> None:
    assert decide([attempt("device_memory", micro_batch=256)]).micro_batch == 128
    down = [attempt("device_memory", at=block, micro_batch=256 >> block) for block in range(4)]
    assert decide(down).micro_batch == 16
    late = [attempt("device_memory", micro_batch=128), attempt("device_memory", at=3, micro_batch=256)]
    assert decide(late).micro_batch == 64
    assert decide([*down, attempt("preempted", micro_batch=16)]).micro_batch == 16  # it stays halved
    assert decide([attempt("device_memory", micro_batch=3)]).micro_batch == 1
    words = "CUDA out of memory, even with one sample at a time"
    assert decide([attempt("device_memory", micro_batch=1)]).give_up == words
    assert decide([attempt("died", micro_batch=256)]).micro_batch == 0


def test_many_bundles_may_run_out_of_memory_at_once() -> None:
    for cause in ("device_memory", "host_memory"):
        assert not decide([attempt(cause, at=block, micro_batch=256) for block in range(50)]).give_up


def test_all_of_it_at_once() -> None:
    attempts = [
        attempt("node", at=0, host="n7"),
        attempt("host_memory", at=0),
        attempt("device_memory", at=0, micro_batch=64, doublings=1),
        attempt("timeout", at=1, doublings=1, micro_batch=32),
        attempt("timeout", at=1, doublings=1, micro_batch=32),
    ]
    assert decide(attempts) == Decision(micro_batch=32, doublings=1, avoid=("n7",), single=True)


STREAMS = {"nag": {"a", "b", "c", "d", "e"}, "cfg": {"e", "f", "g", "h"}}


def test_an_arm_stops_after_the_same_failure_in_several_cells() -> None:
    failed = {"a": "block 3: the loss is nan at step 7", "b": "block 12: the loss is nan at step 71"}
    assert hopeless(STREAMS, failed) == {}
    failed["c"] = "block 0: the loss is nan at step 0.5"
    assert hopeless(STREAMS, failed) == {"nag": (3, {"d"})}  # e is a cell of another arm too
    failed["d"] = failed["c"]
    assert hopeless(STREAMS, failed) == {"nag": (4, set())}


def test_an_arm_goes_on_after_failures_of_several_sorts() -> None:
    assert hopeless(STREAMS, {"a": "bad shape", "b": "the loss is nan", "c": "signal 9"}) == {}
    assert hopeless(STREAMS, dict.fromkeys("abc", STOPPED)) == {}


def test_reasons_that_are_alike() -> None:
    one = "no plan in store /s has the task 0f3a9c77d2e1; 3 of 12 at 1.25e-3"
    assert alike(one) == alike("no plan in store /s has the task 99ab12cd34ef; 4 of 12 at 2.5e-4")
    assert alike("signal 9") != alike("exit code 9")
    assert alike("defaced") == "defaced"
