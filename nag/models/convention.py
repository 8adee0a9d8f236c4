"""How modules of other code are called: their time, their preconditioning, and their null conditions.

A model class may say, beside `generates`, `fits`, `module` and `loss`:

null_class: the class number that means "no class" to its module, or "last" for the number of classes.
null_noise: the time that means "no noise level" to its module.
class_embedding, time_embedding: the submodules whose output (N, D) embeds the class and the time, a name or, for
    several, a pattern such as "blocks.*.time". Where there is no null condition, a fine-tune can learn one: a vector
    that replaces the rows of that output.
load: `load(state) -> state`, from the names in a checkpoint to those of its module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from nag.registry import build, name_of

Time = Literal["t", "1 - t", "0..999", "sigma", "log-sigma"]
TIMES: tuple[Time, ...] = get_args(Time)
CONDITIONS = {"null_noise": "time_embedding", "null_class": "class_embedding"}  # and the submodule that can learn it
DECLARED = (*CONDITIONS, *CONDITIONS.values())


@dataclass(frozen=True)
class Convention:
    """What a module of other code is told of the level, and its preconditioning.

    time: "t" is ours, 0 data and 1 noise; "0..999" the levels of DDPM, 1000 t - 1; "sigma" is sigma(t) / alpha(t), as
    in EDM; "log-sigma" its natural logarithm. A velocity is the derivative by t, for "1 - t" by that time.
    Raises ValueError for what does not go together.
    """

    time: Time = "t"
    precondition: Any = None

    def __post_init__(self) -> None:
        if self.time not in TIMES:
            raise ValueError(f"unknown time {self.time!r}; known: {', '.join(TIMES)}")
        times = TIMES if self.precondition is None else self.precondition.times
        if self.time not in times:
            name, fits = name_of(self.precondition), " or ".join(times)
            fix = "its network is told ln(sigma) / 4; leave out time" if times == ("t",) else f"it needs time: {fits}"
            raise ValueError(f"precondition {name} does not go with time: {self.time}; {fix}")

    def predicts(self, said: str | None) -> str:
        """What the adapted module predicts; `said`: what the user says that it does. ValueError if they differ."""
        fixed = None if self.precondition is None else self.precondition.predicts
        if fixed is not None and said not in (None, fixed):
            name = name_of(self.precondition)
            raise ValueError(f"precondition {name} makes a {fixed} of its network's output; leave out predicts")
        if fixed is None and said is None:
            raise ValueError("'predicts' is missing: velocity, eps, x0 or score")
        return str(fixed or said)

    def described(self) -> dict[str, Any]:
        """As JSON, in the file of a network."""
        pre = self.precondition
        fields = {} if pre is None else {"name": name_of(pre), "fields": asdict(pre)}
        return {"time": self.time} | ({"precondition": fields} if fields else {})

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Convention:
        """What `described` wrote. Raises ValueError for anything else."""
        pre = described.get("precondition")
        try:
            return cls(described["time"], pre and build("preconditions", pre["name"], **pre["fields"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"its convention {dict(described)} is not valid: {error}") from None


def has_null(model: Any, condition: str) -> bool:
    """Whether modules of this class can be told "no class" (`null_class`) or "no noise level" (`null_noise`)."""
    return getattr(model, condition, None) is not None


def can_learn(model: Any, condition: str) -> bool:
    """Whether a fine-tune can teach the condition: it is there, or there is an embedding that it can replace."""
    return has_null(model, condition) or bool(getattr(model, CONDITIONS[condition], None))


def check_declared(model: Any) -> None:
    """Raise ValueError if what a class says of its null conditions is not valid."""
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "null_class": (lambda v: v == "last" or (_is(v, int) and v >= 0), "a class number, or 'last'"),
        "null_noise": (lambda v: _is(v, int | float), "a number"),
        "time_embedding": (lambda v: isinstance(v, str), "the name of a submodule"),
        "class_embedding": (lambda v: isinstance(v, str), "the name of a submodule"),
    }
    for name, (fits, words) in rules.items():
        value = getattr(model, name, None)
        if value is not None and not fits(value):
            raise ValueError(f"{name} of {type(model).__name__} must be {words}, not {value!r}")


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
