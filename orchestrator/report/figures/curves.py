"""Groups of cells as curves along a guidance scale: one for each arm and panel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.identity import digest
from orchestrator.report.comparisons import Group, groups
from orchestrator.report.estimates import Estimate, panel_of, shown_estimate, stamp_of, standings
from orchestrator.report.formatting import nfe_text, short
from orchestrator.report.results import Results
from orchestrator.spec.parameters import NFE

CROWD = 10  # curves in a panel; with more, only the best few are named
NAMED = 5
CROWD_WORDS = f"Only the {NAMED} best and those without a scale are named; the table has all."


@dataclass(frozen=True)
class CurvePoint:
    x: float | None  # the scale; None for an arm that has none
    group: Group
    estimate: Estimate


@dataclass(frozen=True)
class Curve:
    arm: str
    name: str  # the arm, and what differs between its curves
    scale: str | None  # the parameter along x
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Panel:
    params: dict[str, Any]
    curves: tuple[Curve, ...]
    guidance: str = ""  # whose scale is along x


def panels_of(results: Results, metric: str, sampler: bool = True) -> list[Panel]:
    """The scored groups of all arms by panel, in the order of the sweep."""
    by_panel: dict[tuple[Any, ...], tuple[dict[str, Any], list[tuple[str, Group, Estimate]]]] = {}
    every = [group for arm in results.plan.sweep.arms for group in groups(results, arm.name)]
    stamps = [stamp for group in every if (stamp := stamp_of(group, metric))]
    for arm in results.plan.sweep.arms:
        for group in groups(results, arm.name):
            known = shown_estimate(results, group, metric)
            if known:
                params = panel_of(results, group, sampler) | _measured(stamps, stamp_of(group, metric))
                by_panel.setdefault(tuple(params.items()), (params, []))[1].append((arm.name, group, known))
    scales = {arm.name: scale_of(results, arm.name) for arm in results.plan.sweep.arms}
    return [Panel(params, tuple(_curves(results, members, params, scales))) for params, members in by_panel.values()]


def _measured(stamps: Sequence[dict[str, Any]], stamp: dict[str, Any]) -> dict[str, Any]:
    """What differs between stamps, as parameters of a panel: values with different stamps never share a panel."""
    return {key: _brief(stamp[key]) for key in stamp if any(other.get(key) != stamp[key] for other in stamps)}


def _brief(value: Any) -> Any:
    return value[:6] if isinstance(value, str) else value if isinstance(value, int) else digest(value)[:6]


def is_crowd(panel: Panel) -> bool:
    return len(panel.curves) > CROWD


def labelled(results: Results, metric: str, panel: Panel) -> set[str]:
    """The names of curves to label: all, or in a crowded panel the best few and those without a scale."""
    if not is_crowd(panel):
        return {curve.name for curve in panel.curves}

    def worth(curve: Curve) -> float:
        return min(standings(results, metric, [point.estimate for point in curve.points]))

    ranked = sorted((curve for curve in panel.curves if curve.scale), key=worth)
    return {curve.name for curve in panel.curves if not curve.scale} | {curve.name for curve in ranked[:NAMED]}


def scale_of(results: Results, arm: str) -> str | None:
    """The scale that varies most in an arm; among equals, one that its baseline does not have. A scale that matches
    another arm is no number, so it is none here.
    """
    own_groups = groups(results, arm)
    is_guidance = results.plan.sweep.is_guidance
    first = own_groups[0].params if own_groups else {}
    keys = [k for k, v in first.items() if is_guidance(k) and k.endswith(".scale") and not isinstance(v, str)]
    baseline = next((other.against for other in results.plan.sweep.arms if other.name == arm), None)
    known = {key for group in groups(results, baseline) for key in group.params} if baseline else set()
    values = {key: {group.params.get(key) for group in own_groups} for key in keys}
    return max(keys, key=lambda key: (len(values[key]), key not in known), default=None)


def _curves(
    results: Results,
    members: Sequence[tuple[str, Group, Estimate]],
    params: dict[str, Any],
    scales: dict[str, str | None],
) -> list[Curve]:
    by_setting: dict[tuple[Any, ...], list[CurvePoint]] = {}
    for arm, group, known in members:
        scale = scales[arm]
        rest = tuple((k, v) for k, v in group.params.items() if k not in params and k != scale)
        x = float(group.params[scale]) if scale and scale in group.params else None
        by_setting.setdefault((arm, rest), []).append(CurvePoint(x, group, known))
    many = Counter(arm for arm, _ in by_setting)
    curves = []
    for (arm, rest), points in by_setting.items():
        others = [dict(other) for name, other in by_setting if name == arm]
        differing = [(k, v) for k, v in rest if len({str(other.get(k)) for other in others}) > 1]
        words = [nfe_text(v) if k == NFE else f"{_key(k)} {short(v)}" for k, v in differing]
        name = " ".join([arm, *words]) if many[arm] > 1 else arm
        points.sort(key=lambda point: -1.0 if point.x is None else point.x)
        curves.append(Curve(arm, name, scales[arm], tuple(points)))
    return curves


def _key(key: str) -> str:
    """`cfg.scale` -> `cfg`, `train.steps` -> `steps`."""
    family, _, field = key.rpartition(".")
    return family if field == "scale" else field


def by_guidance(results: Results, panels: Sequence[Panel]) -> list[Panel]:
    """A panel for each guidance whose scale is varied, with the arms that have no scale: scales of unlike guidances
    share no axis. Each curve starts where its guidance is off, at its baseline.
    """
    found = []
    for panel in panels:
        level = [curve for curve in panel.curves if curve.scale is None]
        for guidance in dict.fromkeys(_guidance(curve) for curve in panel.curves if curve.scale):
            own = [_from_off(results, panel, curve) for curve in panel.curves if _guidance(curve) == guidance]
            found.append(Panel(panel.params, (*level, *own), guidance))
    return found


def _guidance(curve: Curve) -> str:
    return curve.scale.partition(".")[0] if curve.scale else ""


def _from_off(results: Results, panel: Panel, curve: Curve) -> Curve:
    """The curve with the point of its baseline, if that is this arm without the guidance."""
    off, first = off_at(_guidance(curve)), curve.points[0]
    against = next((arm.against for arm in results.plan.sweep.arms if arm.name == curve.arm), None)
    if off is None or any(point.x == off for point in curve.points):
        return curve
    others = _guided(results, first.group, _guidance(curve))
    every = [point for other in panel.curves if other.arm == against for point in other.points]
    same = [point for point in every if _guided(results, point.group, "") == others]
    if len(same) != 1:
        return curve
    return replace(curve, points=(replace(same[0], x=float(off)), *curve.points))


def _guided(results: Results, group: Group, without: str) -> dict[str, Any]:
    """The fields of a group's guidance, without one of them."""
    guided = {key: value for key, value in group.params.items() if results.plan.sweep.is_guidance(key)}
    return {key: value for key, value in guided.items() if key.partition(".")[0] != without}


def scale_title(guidance: str) -> str:
    """`nag scale (off: 0)`"""
    off = off_at(guidance)
    return f"{guidance} scale" if off is None else f"{guidance} scale (off: {off})"


def off_at(guidance: str) -> int | None:
    """The scale at which a guidance changes nothing; None if unknown, as for a user's own guidance."""
    from pydantic import ValidationError

    from nag.registry import METHODS, build

    if guidance not in METHODS["guidance"]:
        return None
    for scale in (0, 1):
        try:
            if build("guidance", guidance, scale=float(scale)).off:
                return scale
        except ValidationError:  # some of its fields need a sweep
            return None
    return None
