"""A VAE between images and latents: a diffusers AutoencoderKL, such as sd-vae-ft-ema, read from safetensors only."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from nag.autoencoders.block_means import BlockMeans
from nag.numerics import arithmetic
from nag.registry import Int, method

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


@method
class Autoencoder:
    """z = factor * (E(x) - shift), x = D(z / factor + shift); the shift is from config.json, mostly 0.

    path: a folder with config.json and diffusion_pytorch_model.safetensors, or a name in the local Hugging Face cache
    (`stabilityai/sd-vae-ft-ema`, `owner/pipeline/vae`); nothing is ever downloaded. dtype: of weights and computation.
    tile: decode in tiles of this many pixels, which overlap by a quarter and are blended; this bounds the memory but
    changes the result. None: decode whole images.
    factor: what latents are multiplied by, such as 0.18215 for Stable Diffusion's.
    """

    path: str
    factor: Annotated[float, Field(gt=0)] = 0.18215
    dtype: Literal["float32", "bfloat16"] = "float32"
    tile: Annotated[Int, Field(ge=8)] | None = None

    VERSION: ClassVar[int] = 1
    FILES: ClassVar[dict[str, str | None]] = {"path": None}

    def located(self) -> str:
        """The folder of its two files, also if `path` is a name in the Hugging Face cache; `path` itself if they are
        not found.
        """
        try:
            return os.path.dirname(files(self.path)["config.json"])
        except (OSError, ValueError):
            return self.path

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, h, w) of the latents of images (3, H, W), from config.json alone.

        Raises OSError, or ValueError if config.json is not valid or the images do not fit it.
        """
        config, ratio = _config(self.path)
        channels, height, width = shape
        if channels != config["in_channels"]:
            raise ValueError(f"the images have {channels} channels, {self.path} takes {config['in_channels']}")
        if height % ratio or width % ratio:
            raise ValueError(f"images of {height} x {width} are not a multiple of {ratio}, as {self.path} needs")
        return config["latent_channels"], height // ratio, width // ratio

    def smoke(self) -> BlockMeans:
        """Its stand-in for `--smoke`: means of blocks of pixels, which need no weights."""
        return BlockMeans()

    def open(self, device: str = "cpu") -> OpenAutoencoder:
        """Load the weights.

        Raises OSError, ImportError without diffusers, or ValueError if a file is not valid or does not fit.
        """
        return OpenAutoencoder(self, device)


class OpenAutoencoder:
    """An autoencoder with its weights. An image's result depends on the rest of its batch only by rounding."""

    def __init__(self, settings: Autoencoder, device: str) -> None:
        import torch

        self.settings, self.device = settings, device
        self.config, ratio = _config(settings.path)
        given = self.config.get("scaling_factor")
        if given is not None and abs(given - settings.factor) > 1e-6:
            raise ValueError(f"{settings.path} is scaled by {given}, not {settings.factor}: write factor: {given}")
        self.shift = float(self.config.get("shift_factor") or 0.0)
        self._vae = _load(settings.path, getattr(torch, settings.dtype)).to(device).requires_grad_(False).eval()
        if settings.tile is not None:
            if settings.tile % ratio:
                raise ValueError(f"tile: {settings.tile} is not a multiple of {ratio}, as {settings.path} needs")
            self._vae.tile_sample_min_size, self._vae.tile_latent_min_size = settings.tile, settings.tile // ratio

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) -> images (N, 3, H, W) float32 in [-1, 1]. Raises ValueError for latents of another shape."""
        import torch

        wanted = self.config["latent_channels"]
        if latents.ndim != 4 or latents.shape[1] != wanted:
            raise ValueError(f"the latents are {list(latents.shape)}; {self.settings.path} takes {wanted} channels")
        self._vae.use_tiling = self.settings.tile is not None
        with torch.no_grad(), arithmetic(torch.device(self.device).type):
            x = latents.to(self.device, torch.float32) / self.settings.factor + self.shift
            return self._vae.decode(x.to(self._vae.dtype)).sample.float().clamp(-1, 1)

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 3, H, W) in [-1, 1] -> mean and standard deviation of the posterior, (N, C, h, w) float32, shifted and
        scaled as networks see latents. Raises ValueError for images that do not fit.
        """
        import torch

        _, channels, height, width = images.shape
        self.settings.latent_shape((channels, height, width))
        self._vae.use_tiling = False
        with torch.no_grad(), arithmetic(torch.device(self.device).type):
            posterior = self._vae.encode(images.to(self.device, self._vae.dtype)).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            return (mean - self.shift) * self.settings.factor, std * self.settings.factor


def files(path: str) -> dict[str, str]:
    """Local paths of an autoencoder's two files, by name. path: a folder, or a name in the local Hugging Face cache.
    Raises FileNotFoundError, which says what to do.
    """
    places = {name: _find(path, name) for name in (CONFIG, WEIGHTS)}
    missing = [name for name, place in places.items() if place is None]
    if missing and os.path.isdir(path):
        pickled = " Pickled weights (.bin) are never loaded." if WEIGHTS in missing else ""
        raise FileNotFoundError(f"{path} has no {' or '.join(missing)}.{pickled}")
    if missing:
        raise FileNotFoundError(
            f"there is no folder {path!r}, and the local Hugging Face cache has no {' or '.join(missing)} of that "
            f"name. To put it there: hf download {'/'.join(path.split('/')[:2])}"
        )
    return {name: str(place) for name, place in places.items()}


def _find(path: str, name: str) -> str | None:
    if os.path.isdir(path):
        place = os.path.join(path, name)
        return place if os.path.isfile(place) else None
    owner, _, rest = path.partition("/")
    repository, _, folder = rest.partition("/")
    if not repository or owner in ("", ".", ".."):
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        cached = try_to_load_from_cache(f"{owner}/{repository}", f"{folder}/{name}" if folder else name)
    except HFValidationError:
        return None
    return cached if isinstance(cached, str) else None


def _config(path: str) -> tuple[dict[str, Any], int]:
    """The content of config.json, and how many pixels one latent spans along a side."""
    place = files(path)[CONFIG]
    try:
        with open(place) as file:
            config = json.load(file)
        name, ratio = config["_class_name"], 2 ** (len(config["block_out_channels"]) - 1)
        config = {"in_channels": 3, "latent_channels": 4, **config}
        sizes = (config["in_channels"], config["latent_channels"], *config["block_out_channels"])
        if not all(type(size) is int and 0 < size < 2**16 for size in sizes) or len(sizes) > 18:
            raise ValueError(f"in_channels, latent_channels and block_out_channels are {sizes[:18]}")
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{place} does not describe an autoencoder ({error!r})") from error
    if name != "AutoencoderKL":
        raise ValueError(f"{place} describes a {name}; only AutoencoderKL can be used")
    return config, ratio


def _load(path: str, dtype: torch.dtype) -> Any:
    """diffusers' module with every weight from the file; only diffusers' loader knows the older names of weights."""
    from safetensors import SafetensorError

    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise ImportError("latents need diffusers: pip install 'nagbench[latents]'") from error
    folder = os.path.dirname(files(path)[WEIGHTS])
    only_local = {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": False}
    try:
        vae, info = AutoencoderKL.from_pretrained(folder, torch_dtype=dtype, output_loading_info=True, **only_local)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(f"{folder}: {WEIGHTS} does not fit {CONFIG} or is damaged ({error})") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info.get("mismatched_keys", ())]
    if wrong:
        raise ValueError(f"{folder}: {WEIGHTS} does not fit {CONFIG}: {len(wrong)} weights differ, such as {wrong[0]}")
    return vae
