"""Networks of the library diffusers, built by it from the `config.json` that it saves: UNet2DModel (DDPM), DiT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import pydantic

from nag.registry import method

if TYPE_CHECKING:
    import torch

    from nag.losses import Loss

KINDS = ("UNet2DModel", "DiTTransformer2DModel")
TIME = {"UNet2DModel": "time_embedding", "DiTTransformer2DModel": "transformer_blocks.*.norm1.emb.timestep_embedder"}


@method
class Diffusers:
    """A network of diffusers. Its module is called as `forward(x, level 0..999, class)`, as by its DDPM scheduler.

    config: of its config.json, `_class_name` among it. null_row: the last row of a U-Net's class table is its null
    class (that of a DiT always is).
    """

    config: Annotated[dict[str, Any], pydantic.Field(min_length=1)]
    null_row: bool = False

    VERSION: ClassVar[int] = 1
    generates: ClassVar[bool] = True
    BUILT_ON_CPU: ClassVar[bool] = True  # it has state outside its state dict

    @pydantic.model_validator(mode="after")
    def _is_known(self) -> Self:
        kind = self.config.get("_class_name")
        if kind not in KINDS:
            raise ValueError(f"config.json is of a {kind!r}; of diffusers, {' and '.join(KINDS)} can be loaded")
        if kind == "UNet2DModel" and self.config.get("class_embed_type") is not None:
            kinds = self.config["class_embed_type"]
            raise ValueError(f"its class_embed_type is {kinds!r}; only a table of classes (null) can be told classes")
        return self

    @property
    def _is_dit(self) -> bool:
        return bool(self.config["_class_name"] == "DiTTransformer2DModel")

    @property
    def _rows(self) -> int | None:
        """Classes in its config; None for a network without."""
        rows = self.config.get("num_embeds_ada_norm" if self._is_dit else "num_class_embeds")
        return None if rows is None else int(rows)

    @property
    def num_classes(self) -> int | None:
        """None for a network without classes."""
        return None if self._rows is None else self._rows - self.null_row

    @property
    def state(self) -> tuple[int, int, int]:
        """(C, H, W), as its config says. Raises ValueError if it does not."""
        size, channels = self.config.get("sample_size"), self.config.get("in_channels")
        height, width = size if isinstance(size, list | tuple) else (size, size)
        if not all(isinstance(side, int) and side > 0 for side in (channels, height, width)):
            raise ValueError(f"its config.json has no sizes of a state: in_channels {channels!r}, sample_size {size!r}")
        return int(str(channels)), int(str(height)), int(str(width))

    @property
    def null_class(self) -> str | None:
        return "last" if self._is_dit or self.null_row else None

    @property
    def time_embedding(self) -> str:
        return TIME[self.config["_class_name"]]

    @property
    def class_embedding(self) -> str | None:
        return None if self._rows is None or self._is_dit else "class_embedding"

    @property
    def predicts_variance(self) -> bool:
        return bool(self.config.get("out_channels") == 2 * self.config["in_channels"])

    def fits(self, shape: tuple[int, int, int]) -> None:
        """Raise ValueError for states of another shape than its config says."""
        if tuple(shape) != self.state:
            raise ValueError(f"its config.json says states {list(self.state)}, not {list(shape)}")

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        """The module, its weights from torch's own generator, with the names that diffusers gives them.

        Raises ImportError without diffusers, ValueError for a config that it does not accept. Nothing is fetched.
        """
        classes = self._rows is not None
        table = {"num_embeds_ada_norm" if self._is_dit else "num_class_embeds": num_classes + self.null_row}
        network = _called(self.config["_class_name"], classes)
        given = {key: value for key, value in self.config.items() if not key.startswith("_")}
        try:
            module = network.from_config(given | (table if classes else {}))
        except (TypeError, ValueError, KeyError, NotImplementedError) as error:
            raise ValueError(f"diffusers cannot build it: {error}") from None
        for part in module.modules():
            if hasattr(part, "dropout_prob"):
                part.dropout_prob = 0.0  # else a table of classes drops some itself while it trains
        return module

    def loss(self, interpolant: Any, predicts: str) -> Loss:
        """Mean squared error of the prediction; with a learned variance also its bound, as DiT."""
        from nag.losses import prediction_loss
        from nag.models.dit import hybrid_loss

        return hybrid_loss(interpolant, predicts) if self.predicts_variance else prediction_loss(interpolant, predicts)


def _called(name: str, classes: bool) -> Any:
    """The class of diffusers, its modules called with states, levels and classes."""
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("networks of diffusers are built by it: pip install 'nagbench[latents]'") from error
    cls: Any = getattr(diffusers, name)

    class Called(cls):
        def forward(self, x: Any, level: Any, y: Any) -> Any:
            return super().forward(x, level, class_labels=y if classes else None).sample

    return Called


def scheduled(scheduler: Mapping[str, Any]) -> str:
    """What a network predicts that was saved with this scheduler_config.json.

    Raises ValueError for another path than DDPM's linear betas (`interpolant: vp`), or a prediction that is not ours.
    """
    wanted = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    for key, value in wanted.items():
        if scheduler.get(key, value) != value:
            raise ValueError(
                f"its scheduler has {key} {scheduler[key]!r}; only the levels of DDPM ({value!r}) are known"
            )
    kinds = {"epsilon": "eps", "sample": "x0"}
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in kinds:
        raise ValueError(f"its scheduler has prediction_type {kind!r}; epsilon and sample can be loaded")
    return kinds[kind]
