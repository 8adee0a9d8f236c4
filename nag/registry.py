"""Table of contents: family -> name -> "module:Class". To add a method, write its file and add one line here.

A family is a folder of this package, a method one file in it: a small frozen object whose fields are its configuration.
Nothing here imports torch; neither does importing a method, so names and fields can be checked in milliseconds.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

METHODS: dict[str, dict[str, str]] = {
    "interpolants": {"linear": "nag.interpolants:Linear"},
    "models": {"sit": "nag.models.sit:SiT", "noise_level": "nag.models.noise_level:NoiseLevel"},
    "samplers": {
        "euler": "nag.samplers.euler:Euler",
        "heun": "nag.samplers.heun:Heun",
        "euler_maruyama": "nag.samplers.euler_maruyama:EulerMaruyama",
    },
    "guidance": {"cfg": "nag.guidance.cfg:CFG", "nag": "nag.guidance.nag:NAG"},
    "metrics": {
        "fid": "nag.metrics.fid:FID",
        "precision_recall": "nag.metrics.precision_recall:PrecisionRecall",
        "class_accuracy": "nag.metrics.class_accuracy:ClassAccuracy",
    },
    "features": {"digits": "nag.features.digits:Digits", "pixels": "nag.features.pixels:Pixels"},
    "datasets": {"digits": "nag.datasets.digits:Digits"},
    "measures": {"noise_shift": "nag.noise_level:NoiseShift"},
}


def _whole(value: Any) -> Any:
    """5e4 is a whole number written as a float; anything else is left for the strict check to judge."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_whole)]

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def method(cls: type[T]) -> type[T]:
    """Make `cls` a method: a frozen dataclass whose fields are checked strictly and by name when it is built."""
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return dataclass(frozen=True, config=config)(cls)  # type: ignore[return-value]


def find(family: str, name: str) -> type:
    """The class of a method. Raises KeyError with the known names."""
    if family not in METHODS:
        raise KeyError(f"unknown family {family!r}; known: {', '.join(METHODS)}")
    if name not in METHODS[family]:
        raise KeyError(f"unknown name {name!r} in {family}; known: {', '.join(METHODS[family])}")
    module, _, attribute = METHODS[family][name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def build(family: str, name: str, **fields: Any) -> Any:
    """Build a method by name: `build("samplers", "heun", steps=32)`.

    Raises KeyError for an unknown family or name, pydantic.ValidationError for an unknown or wrong field.
    """
    return find(family, name)(**fields)


def name_of(instance: Any) -> str:
    """The name under which the class of `instance` stands in the table. Raises KeyError if it does not."""
    cls = type(instance)
    path = f"{cls.__module__}:{cls.__qualname__}"
    for names in METHODS.values():
        for name, target in names.items():
            if target == path:
                return name
    raise KeyError(f"{path} is not in nag.registry.METHODS")
