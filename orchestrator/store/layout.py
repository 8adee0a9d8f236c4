"""Names of the files in a store, and the keys that a record must have.

A store may be a folder that many people write to. Files that do not have nagbench's names and shapes are never read or
deleted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DIGEST = "[0-9a-f]{32}"
NUMBER = "[0-9]{6,18}"  # of a block, a plan of a sweep, a wave

# Folder -> names in it. Folders that are not listed may have any names.
NAMES = [
    ("plans", rf"{DIGEST}\.json"),
    ("(sweeps|leases)/[^/]+", rf"{NUMBER}\.json"),
    ("blocks/[^/]+", rf"{NUMBER}\.safetensors"),
    ("records/[^/]+|attempts/[^/]+", r".+\.json"),
    ("files/[^/]+", rf"checkpoint-{NUMBER}\.safetensors|progress-{NUMBER}\.json|(?!checkpoint-|progress-).+"),
    ("waves/[^/]+", NUMBER),
    ("waves/[^/]+/[^/]+/(starts|ends|beats|missed|doubled)", r"[0-9]{3,9}-[0-9]{6,9}-[0-9]{3,9}\.json"),
    ("waves/[^/]+/[^/]+/(stops|failed|room|next)", r".+\.json"),
]
_NAMES = [(re.compile(folder), re.compile(name)) for folder, name in NAMES]

# What `gc` may delete: only files that nagbench writes.
OURS = re.compile(
    rf"(blocks/{DIGEST}/{NUMBER}\.safetensors|(files|attempts|leases)/{DIGEST}/[^/]+|records/[a-z]+/{DIGEST}\.json"
    rf"|logs/{DIGEST}\.log|plans/{DIGEST}\.json|sweeps/[^/]+/{NUMBER}\.json|assets/{DIGEST}/[^/]+"
    rf"|code/{DIGEST}(\.json|/.+)|quarantine/.+|waves/[^/]+/{NUMBER}/.+\.json"
    rf"|cluster/([^/]+/)?(nb\.[^/]+|code/{DIGEST})/.+)"
)
TEXT, NUMERIC, WHOLE, LIST, MAP = str, (int, float), int, list, dict
JOB = re.compile(r"[0-9]*")  # Slurm's id, which goes into options of its commands
END: dict[str, Any] = {"bundle": WHOLE, "outcome": TEXT, "digest?": TEXT, "reason?": TEXT, "cause?": TEXT}
END |= {"traceback?": TEXT, "micro_batch?": WHOLE, "time?": NUMERIC}
SCORE = {"value": (int, float, type(None))}
TRIAL = {key: (int, float, type(None)) for key in ("value", "difference", "low", "high")} | {"place": [WHOLE]}

# Name of a record -> its keys and the shapes of their values. "key?": optional; {"": shape}: a mapping to such values;
# [shape]: a list of them.
SHAPES: list[tuple[str, Mapping[str, Any]]] = [
    (
        "plans/.*",
        {"sweep": TEXT, "text": TEXT, "tasks": MAP, "blocks": MAP, "goals": LIST, "keep?": TEXT, "places?": MAP}
        | {"cells?": LIST, "floors?": LIST, "about?": MAP, "races?": LIST},
    ),
    ("sweeps/.*", {"plan": re.compile(DIGEST), "file?": TEXT}),
    ("records/.*", {"files": {"": TEXT}, "started": NUMERIC, "seconds": NUMERIC, "used?": {"": NUMERIC}}),
    ("records/(score|measure)/.*", {"values": {"": SCORE}, "count": WHOLE}),
    (
        "records/score/.*",
        {"reference_size": (int, type(None)), "network_calls?": NUMERIC, "sample_seconds?": NUMERIC}
        | {"extract_seconds?": NUMERIC},
    ),
    (
        "records/select/.*",
        {"count": WHOLE, "score": TEXT, "scored": [TRIAL], "leader": [WHOLE], "chosen": (LIST, type(None))}
        | {"next": (MAP, type(None)), "tried": LIST},
    ),
    ("records/measure/.*", {"shift?": MAP, "curve?": MAP, "network_calls?": NUMERIC}),
    ("records/reference/.*", {"rows": MAP, "sizes": MAP, "outputs": LIST, "moments": LIST}),
    ("files/.*/progress-.*", {"rows": LIST}),
    (
        "attempts/.*",
        {"cause": TEXT, "reason": TEXT, "time": NUMERIC, "log?": TEXT, "micro_batch?": WHOLE, "doublings?": WHOLE}
        | {"at?": (int, str, type(None)), "host?": TEXT, "again?": TEXT, "kind?": TEXT},
    ),
    (
        "blocks/.*",
        {"digest?": TEXT, "first?": WHOLE, "count?": WHOLE, "number?": WHOLE, "seconds?": NUMERIC, "device?": TEXT}
        | {"micro_batch?": WHOLE, "network_calls?": NUMERIC, "skipped?": MAP, "sampled?": MAP}
        | {"used?": {"": NUMERIC}},
    ),
    ("leases/.*", {"until": NUMERIC, "host?": TEXT, "pid?": WHOLE, "born?": TEXT, "owner?": TEXT}),
    ("code/.*", {"main": TEXT, "files": MAP}),
    ("waves/.*/wave.json", {"arrays": WHOLE, "time": NUMERIC, "folder": TEXT}),
    (r"waves/.*/[0-9]+\.job\.json", {"job": (JOB, type(None))}),
    ("waves/.*/closed.json", {"gpu_seconds": NUMERIC}),
    ("waves/.*/failed/.*", {"reason": TEXT}),
    ("waves/.*/beats/.*", {"beat": TEXT}),
    ("waves/.*/missed/.*", {"beat": TEXT, "time": NUMERIC}),
    ("waves/.*/next/.*", {"jobs": [JOB]}),
    ("waves/.*/room/.*", {"limit": WHOLE, "bundles": WHOLE, "why": TEXT}),
    ("waves/.*/stops/.*", {"only": (list, type(None)), "time": NUMERIC, "whole": bool}),
    ("waves/.*/(starts|ends)/.*", {"job?": JOB, "time": NUMERIC, "started?": NUMERIC, "gpus?": WHOLE, "host?": TEXT}),
    (
        "waves/.*/ends/.*",
        {"outcome?": TEXT, "cause?": TEXT, "reason?": TEXT, "bundles?": [END], "progress?": bool}
        | {"networks_loaded?": WHOLE},
    ),
]
_SHAPES = [(re.compile(name), shape) for name, shape in SHAPES]


def is_own_name(folder: str, name: str) -> bool:
    """Whether nagbench gives such names to files in that folder."""
    return not name.startswith(".") and all(
        pattern.fullmatch(name) for known, pattern in _NAMES if known.fullmatch(folder)
    )


def lacks(name: str, record: Any) -> str:
    """The first key that a record of this name lacks, or that has a value of the wrong shape; "" if it is valid."""
    if not isinstance(record, dict):
        return "a mapping"
    for known, shape in _SHAPES:
        if known.fullmatch(name) and (key := _lacks(record, shape)):
            return key
    return ""


def _lacks(record: Mapping[str, Any], shape: Mapping[str, Any]) -> str:
    for key, wanted in shape.items():
        name = key.removesuffix("?")
        if name not in record:
            if name == key:
                return name
        elif not any(_has_shape(record[name], kind) for kind in (wanted if isinstance(wanted, tuple) else (wanted,))):
            return name
    return ""


def _has_shape(value: Any, kind: Any) -> bool:
    if isinstance(kind, dict):
        each = kind.get("")
        if not isinstance(value, dict):
            return False
        return not _lacks(value, kind) if each is None else all(_has_shape(one, each) for one in value.values())
    if isinstance(kind, list):
        return isinstance(value, list) and all(_has_shape(one, kind[0]) for one in value)
    if isinstance(kind, re.Pattern):
        return isinstance(value, str) and kind.fullmatch(value) is not None
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def record_name(kind: str, digest: str) -> str:
    return f"records/{kind}/{digest}.json"


def block_name(digest: str, number: int) -> str:
    return f"blocks/{digest}/{number:06d}.safetensors"


def plan_name(checksum: str) -> str:
    return f"plans/{checksum}.json"


def asset_folder(content: str) -> str:
    return f"assets/{content.rstrip('/')}"


def code_record(source: str) -> str:
    return f"code/{source}.json"


def code_name(source: str, path: str) -> str:
    return f"code/{source}/{path}"


def file_name(digest: str, name: str) -> str:
    return f"files/{digest}/{name}"


def digest_of(name: str) -> str:
    """The digest of the task that makes a record, a block or an output file."""
    first, second, third = name.split("/")[:3]
    return third.removesuffix(".json") if first == "records" else second
