"""Whole-photo restoration band by band: exact, in bounded memory, faster than layer by layer.

This file decides: how a photo is planned, which precision and memory it gets, and what happens if that is not
enough. `layers.py` walks through the network, `bands.py` cuts its maps for threads and memory, `kernels/`
computes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dirformer.ground.memory import available_memory, device_memory
from dirformer.inference.bands import Bands, workers
from dirformer.inference.context import check_window, count_cells
from dirformer.inference.layers import Layers, Packs, Progress
from dirformer.inference.plan import Plan, make_plan, whole_memory
from dirformer.inference.recorded import Recorder
from dirformer.kernels.autograd import install
from dirformer.kernels.choose import choose_kernels
from dirformer.kernels.precision import float32_products
from dirformer.kernels.protocol import Kernels, weights_state
from dirformer.networks.diffir import DiffIRS2

log = logging.getLogger(__name__)


class Engine:
    """A stage-2 network, run band by band. Several threads may restore with one engine at once.

    Args:
        model: the network, on the device it is to run on.
        precision: of the large products; all else is float32. Results that are not finite are computed again
            in float32, those of TF32 too.
        tf32: whether float32 products are TF32, on a device that has them.
        storage: of feature maps between sweeps; 16 bit halve what grows with the photo, at a loss.
        max_memory: bytes the engine may need beside the network. None: what the machine has.
        threads: CPU threads; None: as many as torch uses.
        window: side, in pixels of the photo, of what an attention's sums are taken over; None: the photo.
        window_prior: whether each window has an IPR of its own, too.
        folder: for maps that do not fit under the limit; None: the system's temporary folder.
        kernels: chosen by device and precision if not given.

    Raises:
        ConfigError: if the window is too small for the network.
    """

    def __init__(
        self,
        model: DiffIRS2,
        *,
        precision: torch.dtype = torch.float32,
        tf32: bool = False,
        storage: torch.dtype = torch.float32,
        max_memory: int | None = None,
        threads: int | None = None,
        window: int | None = None,
        window_prior: bool = False,
        folder: Path | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        self.model = model
        device = model.dirformer.embed.weight.device
        self.kernels = kernels or choose_kernels(precision, device, tf32=tf32)
        self.threads = threads or (torch.get_num_threads() if self._on_cpu else 1)
        if not self._on_cpu:
            install(model)
        self.storage, self.max_memory, self.folder = storage, max_memory, folder
        self.window = None if window is None else check_window(window, model.config.multiple)
        self.window_prior = window_prior
        self.plan = Plan(self.threads, storage, keep_packed=True)
        """The last photo's, to be shown; nothing is computed from it."""
        self._packs: Packs = {}
        self._parameters = sum(p.numel() for p in model.parameters())
        self._on_host = False
        self._recorder = Recorder(self._modules)

    @property
    def precision(self) -> str:
        """What the large products are computed in: `float32`, `tf32`, `bfloat16` or `float16`."""
        return "tf32" if self.kernels.tf32 else str(self.kernels.precision).removeprefix("torch.")

    @property
    def _on_cpu(self) -> bool:
        return self.kernels.device.type == "cpu"

    def plan_for(self, height: int, width: int, *, mean: bool = False) -> Plan:
        """Return how a photo of that (padded) size would be restored; see `make_plan`.

        Raises:
            ConfigError: if it does not fit under the memory limit.
        """
        window = self.window
        plan = functools.partial(
            make_plan,
            self.model.config,
            height,
            width,
            threads=self.threads,
            storage=self.storage,
            cells=(1, 1) if window is None else (count_cells(height, window), count_cells(width, window)),
            parameters=self._parameters,
            mean=mean,
            folder=self.folder,
            gpu=not self._on_cpu,
        )
        if self.max_memory is not None or not self._on_cpu:
            return plan(max_memory=self.max_memory)
        free, unlimited = available_memory(), plan()
        # Maps on disk rather than a machine that swaps.
        return unlimited if free is None or unlimited.peak <= 0.9 * free else plan(max_memory=int(0.9 * free))

    @torch.inference_mode()
    def restore(
        self,
        lq: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "n b p"],
        *,
        progress: Progress | None = None,
        mean: bool = False,
    ) -> Float[Tensor, "b 3 H W"]:
        """Restore as the network does: `model(lq, noise)`.

        Args:
            lq: photos, as the network sees them.
            noise: standard normal, see `DiffIRS2.estimate`.
            progress: told the share of each photo's work that is done, after each block.
            mean: whether the caller keeps a mean of several results, whose memory is then planned for.
        """
        if self._fits_whole(*lq.shape[2:]):
            return self._whole(lq, noise, progress)
        plan = self._planned(lq, mean=mean)
        # Photo by photo, so that no photo's bytes depend on the others of its batch.
        photos = zip(torch.split(lq, 1), torch.split(noise, 1, dim=1), strict=True)
        return torch.stack(
            [self._checked(photo, self._prior(photo, z, plan), plan, progress) for photo, z in photos]
        )

    def whole_memory_for(self, height: int, width: int) -> int | None:
        """Return the device's bytes for a photo of that (padded) size as a whole; None in bands."""
        return self._whole_memory(height, width) if self._fits_whole(height, width) else None

    def _whole_memory(self, height: int, width: int) -> int:
        return whole_memory(self.model.config, height, width, fused=self.kernels.name == "Triton")

    def _fits_whole(self, height: int, width: int) -> bool:
        """Whether a GPU restores a photo of that (padded) size as a whole.

        A GPU computes whole maps faster than bands: each band is a handful of tiny launches. Bands are for
        photos that do not fit into its memory or under the limit, and for windows.
        """
        if self._on_cpu or self.window is not None or self._on_host:
            return False
        if self._recorder.holds(height, width):
            return True
        free = device_memory(self.kernels.device)
        limits = [limit for limit in (free and 0.9 * free, self.max_memory) if limit is not None]
        return bool(limits) and self._whole_memory(height, width) <= min(limits)

    def _whole(self, lq: Tensor, noise: Tensor, progress: Progress | None) -> Tensor:
        """Restore photo by photo through the modules."""
        photos = []
        # Whoever changes the weights gets another recording.
        state = weights_state(self.model)
        for photo, z in zip(torch.split(lq, 1), torch.split(noise, 1, dim=1), strict=True):
            with self._products():
                recorded = photo.device.type == "cuda"
                out = self._recorder(photo, z, state) if recorded else self._modules(photo, z)
            if self._overflowed(out):
                with float32_products(self.kernels.device):
                    out = self.model(photo, z)[0]
            photos.append(out)
            if progress is not None:
                progress(1.0)
        return torch.stack(photos)

    def _modules(self, photo: Tensor, z: Tensor) -> Tensor:
        low = self.kernels.precision != torch.float32
        with torch.autocast(photo.device.type, self.kernels.precision, enabled=low):
            return self.model(photo, z)[0].float()

    @torch.inference_mode()
    def condition(self, lq: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p"]:
        """CPEN: `model.cpen(lq)`."""
        plan = self._planned(lq)
        with self._layers(plan) as layers:
            pooled = [layers.pooled(self.model.cpen, photo, windows=False) for photo in torch.split(lq, 1)]
            return torch.cat([self.model.cpen.head(mean) for mean in pooled])

    @torch.inference_mode()
    def restore_under(
        self, lq: Float[Tensor, "b c h w"], prior: Float[Tensor, "b p"]
    ) -> Float[Tensor, "b 3 H W"]:
        """The DIRformer under a given IPR: `model.dirformer(lq, prior)`."""
        plan = self._planned(lq)
        photos = list(zip(torch.split(lq, 1), torch.split(prior, 1), strict=True))
        return torch.stack([self._checked(photo, z, plan, None) for photo, z in photos])

    @torch.inference_mode()
    def prior(
        self, lq: Float[Tensor, "1 c h w"], noise: Float[Tensor, "n 1 p"]
    ) -> Float[Tensor, "windows p"]:
        """The IPR that `restore` finds for a photo; one for each window, if they have their own."""
        return self._prior(lq, noise, self._planned(lq))

    @torch.inference_mode()
    def restore_with(
        self,
        lq: Float[Tensor, "1 c h w"],
        prior: Float[Tensor, "1 p"],
        *,
        progress: Progress | None = None,
        mean: bool = False,
    ) -> Float[Tensor, "1 3 H W"]:
        """Restore one photo under a given IPR, as `restore` does under the one it finds."""
        return self._checked(lq, prior, self._planned(lq, mean=mean), progress)[None]

    def _planned(self, lq: Tensor, *, mean: bool = False) -> Plan:
        plan = self.plan_for(*lq.shape[2:], mean=mean)
        if plan != self.plan:
            log.info("%d×%d: %s; kernels: %s", lq.shape[3], lq.shape[2], plan, self.kernels.name)
        self.plan = plan
        if not plan.keep_packed:
            self._packs = {}
        return plan

    def _prior(self, lq: Tensor, noise: Float[Tensor, "n 1 p"], plan: Plan) -> Float[Tensor, "windows p"]:
        """Return one photo's IPR, or one for each window."""
        cpen = self.model.cpen
        with self._layers(plan) as layers:
            condition = cpen.head(layers.pooled(cpen, lq, windows=self.window_prior))
            return self.model.estimate(condition, noise.expand(-1, len(condition), -1))[-1]

    @contextlib.contextmanager
    def _layers(self, plan: Plan, progress: Progress | None = None) -> Iterator[Layers]:
        with self._products(), workers(self.kernels, plan.threads) as pool:
            bands = Bands(self.kernels, plan, pool)
            yield Layers(self.kernels, bands, self._packs, self._on_host, progress)

    def _products(self) -> contextlib.AbstractContextManager[None]:
        return float32_products(self.kernels.device, tf32=self.kernels.tf32)

    def _overflowed(self, out: Tensor) -> bool:
        """Whether a result must be computed again in float32; the log says so."""
        if self.precision == "float32" or bool(out.isfinite().all()):
            return False
        log.warning("%s arithmetic overflowed; this photo is restored in float32", self.precision)
        return True

    def _checked(self, lq: Tensor, prior: Tensor, plan: Plan, progress: Progress | None) -> Tensor:
        """Restore a photo, with the host's memory or in float32 if device or precision do not suffice."""
        try:
            with self._layers(plan, progress) as layers:
                out = layers.dirformer(self.model.dirformer, lq, prior)
        except torch.OutOfMemoryError:
            if self._on_host or self._on_cpu:
                raise
            log.warning(
                "%d×%d: too large for %s; maps wait on the host", *lq.shape[:1:-1], self.kernels.device
            )
            self._on_host = True
            return self._checked(lq, prior, plan, progress)
        if self._overflowed(out):
            return self._in_float32._checked(lq, prior, plan, None)  # noqa: SLF001
        return out

    @functools.cached_property
    def _in_float32(self) -> Engine:
        return Engine(
            self.model,
            storage=self.storage,
            max_memory=self.max_memory,
            threads=self.threads,
            window=self.window,
            window_prior=self.window_prior,
            folder=self.folder,
        )
