import dataclasses
import subprocess
import sys

import pytest

from nag.registry import METHODS, build, find, name_of

EVERY_METHOD = [(family, name) for family, names in METHODS.items() for name in names]

IMPORT_ALL = """
import sys
heavy = ("torch", "torchvision", "numpy", "scipy", "sklearn", "mlflow", "ray", "matplotlib")
sys.modules.update(dict.fromkeys(heavy))  # None: importing it is an ImportError
from nag.registry import METHODS, find
for family, names in METHODS.items():
    for name in names:
        find(family, name)
"""


def test_importing_every_method_needs_no_torch():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("family", "name"), EVERY_METHOD)
def test_a_method_is_a_frozen_versioned_object(family, name):
    method = find(family, name)
    assert isinstance(method.VERSION, int)
    assert dataclasses.is_dataclass(method)
    assert method.__dataclass_params__.frozen


def test_names_and_objects_go_both_ways():
    heun = build("samplers", "heun", steps=5e0)  # 5e0 is how YAML may write 5
    assert heun.steps == 5
    assert type(heun.steps) is int
    assert name_of(heun) == "heun"
    with pytest.raises(dataclasses.FrozenInstanceError):
        heun.steps = 6
    with pytest.raises(KeyError, match="is not in nag"):
        name_of(object())


def test_unknown_names_are_told_with_the_known_ones():
    with pytest.raises(KeyError, match="unknown family 'sampler'; known: interpolants, models, samplers"):
        find("sampler", "heun")
    with pytest.raises(KeyError, match="unknown name 'hun' in samplers; known: euler, heun"):
        build("samplers", "hun", steps=2)
