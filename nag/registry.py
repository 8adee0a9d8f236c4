"""Table of contents: family -> name -> "module:Class". To add a method, write its file and add one line here.

A family is a folder of this package, a method one file in it: a small frozen object whose fields are its configuration.
Nothing here imports torch; neither does importing a method, so names and fields can be checked in milliseconds.

Each family has a Protocol of its methods' members; `OPTIONAL` names those that a class may leave out.

A method that reads files declares them on its class. `FILES` maps each field with the path of a file (or a folder of
weights) to the name that `nag.pretrained` looks for if the field is None. `FOLDERS` names the fields with the path of a
data set. `REMOTE`: such a path may be a URL. In identities the content replaces the path. `smoke()` gives a small
stand-in for `--smoke`. A class without them gets `DEFAULTS`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

METHODS: dict[str, dict[str, str]] = {
    "interpolants": {
        "linear": "nag.interpolants:Linear",
        "gvp": "nag.interpolants:GVP",
        "vp": "nag.interpolants:VP",
    },
    "models": {
        "sit": "nag.models.sit:SiT",
        "dit": "nag.models.dit:DiT",
        "repa": "nag.models.repa:REPA",
        "lightning_dit": "nag.models.lightning_dit:LightningDiT",
        "diffusers": "nag.models.diffusers_network:Diffusers",
        "noise_level": "nag.models.noise_level:NoiseLevel",
        "noise_level_residual": "nag.models.noise_level_residual:NoiseLevelResidual",
    },
    "samplers": {
        "euler": "nag.samplers.euler:Euler",
        "heun": "nag.samplers.heun:Heun",
        "euler_maruyama": "nag.samplers.euler_maruyama:EulerMaruyama",
        "ddpm": "nag.samplers.ddpm:DDPM",
        "ddim": "nag.samplers.ddim:DDIM",
        "dopri5": "nag.samplers.dopri5:Dopri5",
        "dpmpp_2m": "nag.samplers.dpmpp_2m:DPMpp2M",
        "unipc": "nag.samplers.unipc:UniPC",
    },
    "guidance": {
        "cfg": "nag.guidance.cfg:CFG",
        "nag": "nag.guidance.nag:NAG",
        "nag_classifier": "nag.guidance.nag_classifier:NAGClassifier",
        "dog": "nag.guidance.dog:DoG",
        "autoguidance": "nag.guidance.autoguidance:Autoguidance",
        "self_guidance": "nag.guidance.self_guidance:SelfGuidance",
        "tsg": "nag.guidance.tsg:TSG",
        "icg": "nag.guidance.icg:ICG",
        "apg": "nag.guidance.apg:APG",
        "cfg_zero": "nag.guidance.cfg_zero:CFGZero",
        "cfgpp": "nag.guidance.cfgpp:CFGpp",
        "skip_layer": "nag.guidance.skip_layer:SkipLayer",
        "pag": "nag.guidance.pag:PAG",
        "seg": "nag.guidance.seg:SEG",
        "rescale": "nag.guidance.rescale:Rescale",
        "epsilon_scaling": "nag.guidance.epsilon_scaling:EpsilonScaling",
        "time_shift": "nag.guidance.time_shift:TimeShift",
        "noise_level_correction": "nag.guidance.noise_level_correction:NoiseLevelCorrection",
    },
    "metrics": {
        "fid": "nag.metrics.fid:FID",
        "precision_recall": "nag.metrics.precision_recall:PrecisionRecall",
        "class_accuracy": "nag.metrics.class_accuracy:ClassAccuracy",
        "sfid": "nag.metrics.sfid:SFID",
        "kid": "nag.metrics.kid:KID",
        "inception_score": "nag.metrics.inception_score:InceptionScore",
        "density_coverage": "nag.metrics.density_coverage:DensityCoverage",
        "memorisation": "nag.metrics.memorisation:Memorisation",
        "fid_infinity": "nag.metrics.fid_infinity:FIDInfinity",
        "fd_ratio": "nag.metrics.fd_ratio:FDRatio",
        "cmmd": "nag.metrics.cmmd:CMMD",
        "mind": "nag.metrics.mind:MIND",
        "vendi": "nag.metrics.vendi:Vendi",
        "authenticity": "nag.metrics.authenticity:Authenticity",
        "fld": "nag.metrics.fld:FLD",
        "colour": "nag.metrics.colour:Colour",
        "fid_by_class": "nag.metrics.fid_by_class:FIDByClass",
        "coverage_by_class": "nag.metrics.coverage_by_class:CoverageByClass",
        "label_balance": "nag.metrics.label_balance:LabelBalance",
    },
    "features": {
        "digits": "nag.features.digits:Digits",
        "pixels": "nag.features.pixels:Pixels",
        "inception": "nag.features.inception:Inception",
        "dinov2": "nag.features.dinov2:DINOv2",
        "clip": "nag.features.clip:CLIP",
        "siglip2": "nag.features.siglip2:SigLIP2",
        "mae": "nag.features.mae:MAE",
        "convnext_v2": "nag.features.convnext_v2:ConvNeXtV2",
        "colour": "nag.features.colour:Colour",
        "torchscript": "nag.features.torchscript:TorchScript",
        "timm": "nag.features.timm_model:Timm",
        "made_up": "nag.features.synthetic:SyntheticExtractor",
    },
    "datasets": {
        "digits": "nag.datasets.digits:Digits",
        "image_folder": "nag.datasets.image_folder:ImageFolder",
        "latents": "nag.datasets.latent_files:LatentFiles",
        "npz": "nag.datasets.npz:Npz",
        "imagenet": "nag.datasets.named:ImageNet",
        "food101": "nag.datasets.named:Food101",
        "sun397": "nag.datasets.named:SUN397",
        "caltech101": "nag.datasets.named:Caltech101",
        "cub200": "nag.datasets.named:CUB200",
        "stanford_cars": "nag.datasets.named:StanfordCars",
        "df20m_mini": "nag.datasets.named:DF20MMini",
        "artbench10": "nag.datasets.named:ArtBench10",
        "made_up": "nag.datasets.synthetic:SyntheticImages",
    },
    "measures": {
        "noise_shift": "nag.noise_shift:NoiseShift",
        "effective_scale": "nag.effective_scale:EffectiveScale",
    },
    "autoencoders": {"kl": "nag.autoencoders.kl:Autoencoder", "block_means": "nag.autoencoders.block_means:BlockMeans"},
    "preconditions": {"edm": "nag.preconditions:EDM", "ve": "nag.preconditions:VE"},
}
# By family: the Protocol, and those of its members that a class without them gets from it.
OPTIONAL: dict[str, tuple[str, tuple[str, ...]]] = {
    "guidance": (
        "nag.guidance.terms:Guidance",
        (
            *("nests", "reference", "asks", "remembers", "combine", "output", "correct", "told", "evaluated_at"),
            *("silent", "refuses"),
        ),
    ),
    "models": ("nag.models.description:Model", ("estimates",)),
    "samplers": ("nag.samplers.fixed_step:Sampler", ("adaptive", "steps", "refuses", "called_at", "renoises")),
    "metrics": (
        "nag.metrics.metric:Metric",
        ("against", "alone", "of_training", "shown", "plane", "least_of_class", "least_reference"),
    ),
    "features": ("nag.features.extractor:Extractor", ("reads", "mode", "prepares", "distance_name", "dims")),
    "datasets": ("nag.datasets.dataset:Dataset", ("flip", "official", "at_most", "inspect", "notes", "class_names")),
}
DEFAULTS: dict[str, Any] = {"FILES": {}, "FOLDERS": (), "REMOTE": False, "smoke": lambda self: self}
LARGEST = 2**63


def _whole(value: Any) -> Any:
    """5e4 is a whole number written as a float. The strict check judges the rest. From 2^63 on arrays overflow."""
    if isinstance(value, float) and value.is_integer():
        value = int(value) if abs(value) < LARGEST else LARGEST
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise ValueError("a whole number must be below 2^63")
    return value


Int = Annotated[int, BeforeValidator(_whole)]

SOURCE = "__nagbench_source__"  # the attribute of a user's class that holds the digest of its code

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def method(cls: type[T]) -> type[T]:
    """Make `cls` a method: a frozen dataclass whose fields are checked strictly and by name when it is built."""
    for name, default in DEFAULTS.items():
        if not hasattr(cls, name):
            setattr(cls, name, default)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return dataclass(frozen=True, config=config)(cls)  # type: ignore[return-value]


def find(family: str, name: str) -> type:
    """The class of a method. Raises KeyError with the known names."""
    if family not in METHODS:
        raise KeyError(f"unknown family {family!r}; known: {', '.join(METHODS)}")
    if name not in METHODS[family]:
        raise KeyError(f"unknown name {name!r} in {family}; known: {', '.join(METHODS[family])}")
    return completed(family, _imported(METHODS[family][name]))


def completed(family: str, cls: type) -> type:
    """`cls` with the optional members of its family that it lacks, at their defaults."""
    if family in OPTIONAL:
        protocol, names = OPTIONAL[family]
        for name in names:
            if not hasattr(cls, name) and name not in getattr(cls, "__dataclass_fields__", {}):
                setattr(cls, name, inspect.getattr_static(_imported(protocol), name))
    return cls


def _imported(place: str) -> Any:
    """The object at "module:name"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def build(family: str, name: str, **fields: Any) -> Any:
    """Build a method by name: `build("samplers", "heun", steps=32)`.

    Raises KeyError for an unknown family or name, pydantic.ValidationError for an unknown or wrong field.
    """
    return find(family, name)(**fields)


def source_of(instance: Any) -> str | None:
    """The digest of the user's own code that the class of `instance` is from; None for ours."""
    return vars(type(instance)).get(SOURCE)


def name_of(instance: Any) -> str:
    """The name under which the class of `instance` stands in the table, or that of a class of the user's own.

    Raises KeyError for any other class.
    """
    cls = type(instance)
    if source_of(instance) is not None:
        return cls.__name__
    path = f"{cls.__module__}:{cls.__qualname__}"
    if path not in _names():
        raise KeyError(f"{path} is not in nag.registry.METHODS")
    return _names()[path]


@functools.cache
def _names() -> dict[str, str]:
    """Each method's first name, by its place."""
    return {target: name for names in reversed(METHODS.values()) for name, target in reversed(names.items())}
