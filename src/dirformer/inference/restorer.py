"""Photo → network → photo, in memory.

The noise a restoration starts from depends on `seed` and on the pixels the network sees, and on nothing else:
the same photo gives the same bytes whatever its file name, its neighbours, the order or the batch. In
inpainting the network sees the mask, and nothing of what is in the holes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dirformer.ground import checks
from dirformer.ground.device import choose_device, seeded_generator
from dirformer.ground.errors import ConfigError, PhotoError
from dirformer.ground.mask import require_hole
from dirformer.ground.memory import resident_memory
from dirformer.ground.photo import turned, turned_back
from dirformer.ground.values import unreadable
from dirformer.holes.shown import inpainting_input, mended
from dirformer.inference.choice import require_fit
from dirformer.inference.consistent import blend, make_consistent
from dirformer.inference.engine import Engine
from dirformer.inference.inputs import MaskLike, PhotoLike, as_mask, as_photo
from dirformer.inference.layers import Progress
from dirformer.inference.options import AUTO, STORAGES, RestoreOptions
from dirformer.kernels.precision import choose_precision, float32_products
from dirformer.networks.diffir import DiffIRS2
from dirformer.tasks import TASKS
from dirformer.weights.catalog import find_weights
from dirformer.weights.load import open_weights, require_stage2

Network = Callable[[Tensor, Tensor, int], Tensor]
"""Padded photo, noise, number of the turn → restored photo."""


FILLING = 0.25
"""What filling holes from exemplars takes, of the network's own time; for progress alone."""
TURNS = 8
"""Of a square: four quarters, each as it is and flipped."""


class Restorer:
    """A stage-2 network, ready for photos of any size.

    Several threads may share one; a copy or pickle of it is made from the name and the options.

    Args:
        model: a name that `dirformer models` lists, or a weight file.
        options: how to restore; see `RestoreOptions`.
        fields: single options by name, such as `max_memory="1GiB"`; they replace those of `options`.

    Raises:
        CheckpointError: if the weights are not there or not those of a stage-2 network.
        ConfigError: for a device, precision, storage, limit, context or window that does not exist.
    """

    def __init__(self, model: str | Path, options: RestoreOptions | None = None, **fields: Any) -> None:
        self.name = str(model)
        given = RestoreOptions() if options is None else checks.instance("options", options, RestoreOptions)
        self.options = options = _options(given, fields)
        self.device = choose_device(options.device)
        weights = open_weights(find_weights(model))
        self.model = require_stage2(weights).to(self.device)
        self.config = self.model.config
        self.task, self.scale = self.config.task, self.config.scale
        self._check_options()
        self.fill: str = options.fill or self.config.fill
        best = weights.header.inference
        self.context = best.context if options.context == AUTO else options.context
        if self.context == "image" and options.window is not None:
            raise ConfigError(
                f"window is {options.window}, but context is image; give a window only to context window"
            )
        patch = best.patch or TASKS[self.task].patch
        self.window = None if self.context == "image" else options.window or patch
        self.loaded_memory = resident_memory()
        """Bytes this process held when the weights were loaded; None where unknown."""
        precision = choose_precision(options.precision, self.device)
        self.engine = Engine(
            self.model,
            precision=torch.float32 if precision == "tf32" else getattr(torch, precision),
            tf32=precision == "tf32",
            storage=getattr(torch, STORAGES[options.storage]),
            max_memory=options.limit,
            window=self.window,
            window_prior=self.context == "window-prior",
        )

    def __reduce__(self) -> tuple[type[Restorer], tuple[str, RestoreOptions]]:
        return Restorer, (self.name, self.options)

    @property
    def description(self) -> str:
        """What it does, and where."""
        windows = "" if self.window is None else f", in windows of {self.window} pixels"
        turns = ", mean of eight turns" if self.options.self_ensemble else ""
        precision = "" if self.options.precision == "float32" else f" in {self.engine.precision}"
        return f"{self.task} ×{self.scale} on {self.device}{precision}{windows}{turns}"

    @property
    def _shares(self) -> int:
        """How often the network restores a photo."""
        return (TURNS if self.options.self_ensemble else 1) * self.options.samples

    @property
    def _filled_share(self) -> float:
        """Share of the work that goes into filling holes, for progress."""
        return FILLING / (FILLING + self._shares) if self.fill == "exemplar" else 0.0

    def _check_options(self) -> None:
        options, network = self.options, f"{self.name} is a {self.task} ×{self.scale} network"
        if options.strength != 1 and TASKS[self.task].has_mask:
            raise ConfigError(
                f"strength is {options.strength}, but {network}: a hole has no input to blend with"
            )
        if options.fill is not None and self.config.fill == "zero":
            sees = "it sees black holes" if TASKS[self.task].has_mask else "it fills no holes"
            raise ConfigError(f"fill is {options.fill}, but {network}: {sees}; leave it out")
        if options.consistent and self.scale == 1:
            raise ConfigError(f"consistent is set, but {network}; it is for networks that enlarge")

    def restore(
        self,
        photo: PhotoLike,
        mask: MaskLike | None = None,
        seed: int = 0,
        *,
        prior: Float[Tensor, "p"] | None = None,
        noise: Float[Tensor, "n p"] | None = None,
        progress: Progress | None = None,
    ) -> Float[Tensor, "*b 3 H W"]:
        """Restore one photo, or a batch of photos; H and W are `scale` times h and w.

        Args:
            photo: RGB in [0, 1] as a tensor `3 h w` or `b 3 h w`; an array `h w 3` or `h w` of uint8, uint16
                or floats in [0, 1]; a PIL image; or the name of a file.
            mask: holes, as large as the photo: `h w` or `1 h w` of bool, uint8 or floats, a PIL image or a
                file. An inpainting network needs it, others refuse it. It has holes, at most 99 % of it.
            seed: another seed is another draw of Z_T; a whole number of 64 bits.
            prior: the IPR to restore under, as `prior` returns it; None finds it from photo and seed.
            noise: what the diffusion starts from, of shape `model.noise_shape`; None draws it by photo and
                seed.
            progress: told the share of the work that is done, 0 to 1, after each block.

        Returns:
            RGB in [0, 1], float32 on the CPU: `3 H W`, of a batch `b 3 H W`. In inpainting, pixels outside
            the hole are those of the input.

        Raises:
            PhotoError: if the photo is none of the above; if the mask is missing, superfluous, of another
                size or without holes.
            ConfigError: if the photo does not fit under `max_memory`, prior or noise do not suit it, or the
                seed is no whole number.
        """
        checks.function("progress", progress)
        given = None if prior is None else self._checked("prior", prior, (self.config.prior_dim,))[None]
        start = None if noise is None else self._checked("noise", noise, self.model.noise_shape)[:, None]
        return self._restore(self._network(given, progress, start), photo, mask, seed, progress=progress)

    def _network(
        self, prior: Tensor | None, progress: Progress | None, start: Tensor | None = None
    ) -> Network:
        shares, filled = self._shares, self._filled_share
        mean = shares > 1

        def network(lq: Tensor, noise: Tensor, turn: int) -> Tensor:
            told = progress
            if progress is not None and (mean or filled):
                told = lambda share: progress(filled + (1 - filled) * (turn + share) / shares)  # noqa: E731
            if prior is not None:
                return self.engine.restore_with(lq, prior.to(lq), progress=told, mean=mean)
            begin = noise if start is None else start.to(noise)
            return self.engine.restore(lq, begin, progress=told, mean=mean)

        return network

    def restore_with_spread(
        self,
        photo: PhotoLike,
        mask: MaskLike | None = None,
        seed: int = 0,
        *,
        progress: Progress | None = None,
    ) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "H W"]]:
        """Restore a photo under the option `samples` draws of the prior; see `restore` for the arguments.

        Returns:
            The mean of the results, and how far they spread: the standard deviation of each pixel in [0, 1],
            root mean square over the three colours.
        """
        checks.function("progress", progress)
        pixels = as_photo(photo)
        if pixels.ndim != 3:
            raise PhotoError(f"the photo is a batch of {len(pixels)}; expected one photo, 3 h w")
        spread = torch.zeros(*(side * self.scale for side in pixels.shape[1:]))
        network = self._network(None, progress)
        return self._restore(network, pixels, mask, seed, spread, progress), spread

    @torch.inference_mode()
    def prior(self, photo: PhotoLike, mask: MaskLike | None = None, seed: int = 0) -> Float[Tensor, "p"]:
        """Return the IPR under which `restore` restores a photo, float32 on the CPU.

        Raises:
            PhotoError: as `restore`.
            ConfigError: if there are several: context `window-prior`, `self_ensemble`, `samples`.
        """
        self._require_one_prior()
        seed = checks.seed(seed)
        pixels = as_photo(photo)
        if pixels.ndim != 3:
            raise PhotoError(f"the photo is a batch of {len(pixels)}; expected one photo, 3 h w")
        holes = None if mask is None else as_mask(mask)
        self._check_mask(pixels, holes)
        padded, noise = self._seen(self._shown(pixels, holes, seed), seed)
        return self.engine.prior(padded, noise)[0].float().cpu()

    def _require_one_prior(self) -> None:
        options = self.options
        if self.context == "window-prior" or options.self_ensemble or options.samples > 1:
            raise ConfigError(
                "a photo has several priors with context window-prior, self_ensemble and samples; expected "
                "one: leave these options out"
            )

    def _checked(self, what: str, given: Tensor, wanted: tuple[int, ...]) -> Tensor:
        """Return a prior or a noise that suits this network; ConfigError says what it is if it does not."""
        self._require_one_prior()
        found: object = type(given).__name__
        if isinstance(given, Tensor):
            found = unreadable(given) or (f"of {given.dtype}" if given.is_complex() else tuple(given.shape))
        if found != wanted or not bool(given.isfinite().all()):
            raise ConfigError(
                f"the {what} is {found}; {self.name} expects a tensor of shape {wanted} of finite numbers"
            )
        return given.detach().float()

    def restore_whole(
        self, photo: PhotoLike, mask: MaskLike | None = None, seed: int = 0
    ) -> Float[Tensor, "*b 3 H W"]:
        """Restore by the plain modules, the photo as a whole, in float32: what `restore` is compared with."""
        with float32_products(self.device):
            return self._restore(lambda lq, noise, _: self.model(lq, noise), photo, mask, seed)

    @torch.inference_mode()
    def _restore(
        self,
        network: Network,
        photo: PhotoLike,
        mask: MaskLike | None,
        seed: int,
        spread: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        seed = checks.seed(seed)
        pixels = as_photo(photo)
        holes = None if mask is None else as_mask(mask)
        if pixels.ndim == 4:
            return torch.stack([self._one(network, each, holes, seed, None, progress) for each in pixels])
        return self._one(network, pixels, holes, seed, spread, progress)

    def _one(
        self,
        network: Network,
        pixels: Tensor,
        mask: Tensor | None,
        seed: int,
        spread: Tensor | None,
        progress: Progress | None,
    ) -> Tensor:
        self._check_mask(pixels, mask)
        options = self.options
        # Once for all draws and turns: the mean over different fillings would be fog.
        shown = self._shown(pixels, mask, seed, progress)
        restored = self._draw(network, shown, seed, 0)
        squares = None if spread is None else torch.zeros_like(restored)
        for number in range(1, options.samples):
            off = self._draw(network, shown, seed + number, number) - restored
            restored.add_(off, alpha=1 / (number + 1))
            if squares is not None:
                # Welford's sum: exact also where draws hardly differ.
                squares.addcmul_(off, off, value=number / (number + 1))
        if spread is not None and squares is not None:
            spread.copy_((squares.mean(0) / options.samples).sqrt())
        if mask is not None:
            restored = mended(self.fill, shown, restored, pixels)
        if options.consistent:
            restored = make_consistent(restored, pixels, self.scale)
        return blend(pixels, restored, options.strength, self.scale)

    def _draw(self, network: Network, shown: Tensor, seed: int, draw: int) -> Float[Tensor, "3 H W"]:
        """Return the result under one draw of the prior, also outside holes."""
        if not self.options.self_ensemble:
            return self._turn(network, shown, seed, draw)
        restored = torch.zeros(3, *(side * self.scale for side in shown.shape[1:]))
        for turn in range(TURNS):
            once = self._turn(network, turned(shown, turn), seed, draw * TURNS + turn)
            restored.add_(turned_back(once, turn), alpha=1 / TURNS)
        return restored

    def _turn(self, network: Network, shown: Tensor, seed: int, turn: int) -> Float[Tensor, "3 H W"]:
        """Return what the network makes of what it is shown."""
        padded, noise = self._seen(shown, seed)
        height, width = shown.shape[1:]
        restored = network(padded, noise, turn)[0]
        return restored[:, : height * self.scale, : width * self.scale].float().cpu().clamp(0, 1)

    def _shown(
        self, pixels: Tensor, mask: Tensor | None, seed: int, progress: Progress | None = None
    ) -> Float[Tensor, "c h w"]:
        """Return the photo, or the photo with its holes filled, and the mask."""
        if mask is None:
            return pixels
        told = None
        if progress is not None:
            told = lambda share: progress(self._filled_share * share)  # noqa: E731
        return inpainting_input(self.fill, pixels[None], mask[None], seed, told)[0]

    def _seen(self, shown: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return the padded input of the network and the noise it starts from, on its device."""
        noise = start_noise(self.model, seed, None if self.options.noise == "seed" else shown)
        padded = pad_to_multiple(shown[None], self.config.multiple).to(self.device)
        return padded, noise.to(self.device)

    def _check_mask(self, pixels: Float[Tensor, "3 h w"], mask: Float[Tensor, "1 y x"] | None) -> None:
        if not TASKS[self.task].has_mask:
            if mask is not None:
                raise PhotoError(
                    f"a mask or --extend was given, but {self.name} is a {self.task} network, which fills no "
                    "holes; leave it out"
                )
        elif mask is None:
            raise PhotoError(f"{self.name} is an inpainting network and needs a mask; give --mask FILE")
        elif mask.shape[1:] != pixels.shape[1:]:
            sizes = [f"{t.shape[2]}×{t.shape[1]}" for t in (mask, pixels)]
            raise PhotoError(f"the mask is {sizes[0]} and the photo {sizes[1]}; expected the same size")
        else:
            require_hole(mask, "the mask")


def open_restorer(
    model: str | Path,
    options: RestoreOptions | None = None,
    *,
    task: str | None = None,
    scale: float | None = None,
) -> Restorer:
    """Return a Restorer of a network that does the task and scale that were asked for, as in `require_fit`.

    Raises:
        CheckpointError: as `Restorer`.
        ConfigError: as `Restorer`; also if the network does something else.
    """
    restorer = Restorer(model, options)
    require_fit(restorer.name, (restorer.task, restorer.scale), task=task, scale=scale)
    return restorer


def _options(options: RestoreOptions, fields: dict[str, Any]) -> RestoreOptions:
    known = [field.name for field in fields_of(RestoreOptions)]
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"a Restorer has no option {name!r}; the nearest valid one is {near!r}")
    return replace(options, **fields)


def start_noise(
    model: DiffIRS2, seed: int, lq: Float[Tensor, "c h w"] | None = None
) -> Float[Tensor, "n 1 p"]:
    """Return the noise that a restoration starts from, on the CPU.

    Args:
        model: says how much noise it takes.
        seed: another seed is another draw of Z_T.
        lq: the photo as the network sees it, float32 on the CPU; None: the noise follows from the seed alone.
            Taken before padding, so that nothing depends on the network's needs or on the device.
    """
    generator = seeded_generator(seed, b"" if lq is None else _bytes(lq))
    return torch.randn(model.noise_shape, generator=generator)[:, None]


def pad_to_multiple(x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c H W"]:
    """Pad right and bottom to the next multiple: mirrored as far as the photo reaches, then the edge."""
    for axis in (2, 3):
        size = x.shape[axis]
        index = _mirrored_index(size, -(-size // multiple) * multiple)
        x = x.index_select(axis, index.to(x.device))
    return x


def _mirrored_index(size: int, target: int) -> Int[Tensor, "n"]:
    index = torch.arange(target)
    mirrored = (2 * (size - 1) - index).clamp(min=0)
    # Past the far end of the mirror the last mirrored pixel is repeated.
    return torch.where(index < size, index, mirrored)


def _bytes(lq: Tensor) -> bytes:
    # 16-bit integers hold every decoded photo exactly, so equal photos are equal bytes on every platform.
    values = (lq.clamp(0, 1) * 65535).round().to(torch.int32).numpy().astype("<u2")
    return repr(values.shape).encode() + values.tobytes()


def enlarge(alpha: Float[Tensor, "1 h w"], scale: int) -> Float[Tensor, "1 H W"]:
    """Enlarge an alpha channel bicubically, to go with a restored photo."""
    if scale == 1:
        return alpha
    return F.interpolate(alpha[None], scale_factor=float(scale), mode="bicubic")[0].clamp(0, 1)
