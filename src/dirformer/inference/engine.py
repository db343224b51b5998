"""Whole-photo restoration band by band: exact, in bounded memory, faster than layer by layer.

What a photo asks of its whole self is little: CPEN's mean, and each attention's c×c sums over the pixels. All
else sees 3×3 pixels. So a block is three sweeps over its map, in place, and the wide intermediates
never leave the cache:

1. norm → queries and keys → depth-wise → sums of q·kᵀ, q², k²;
2. norm → values → depth-wise → attention merged with the projection → added to the map;
3. norm → expansion → depth-wise → gate → projection → added to the map.

The sweeps themselves are in `native.py` (compiled) and `stock.py` (stock torch), with one interface. Sums run
over fixed blocks of rows, so results depend on neither the memory limit nor the number of threads.

With context windows (`context.py`) the first sweep sums cell by cell, and the second blends attentions.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dirformer.inference.context import Axis, Blend, Modulation, check_window, count_cells, make_axis
from dirformer.inference.maps import Map
from dirformer.inference.plan import PIECE, STEP, Plan, available_memory, make_plan
from dirformer.inference.sources import Convolved, Doubled, Joined, MapRows, PhotoRows, Source
from dirformer.kernels.build import CompilerMissingError
from dirformer.kernels.native import NativeKernels
from dirformer.kernels.stock import StockKernels
from dirformer.networks.config import LEVELS, ModelConfig
from dirformer.networks.diffir import DiffIRS2
from dirformer.networks.dirformer import Block, DIRformer, ModulatedNorm
from dirformer.networks.prior import CPEN, SLOPE, ResidualBlock

log = logging.getLogger(__name__)

Kernels = NativeKernels | StockKernels
Band = dict[str, Any]
"""Rows of a map and their neighbours as they were: `x`, `above`, `below`; see `stock.py`."""
ModulationOf = Callable[[int, Band], Modulation]
"""What a norm's result is scaled and shifted by, in a band that begins at row y of its map."""


def choose_kernels(precision: torch.dtype = torch.float32, device: torch.device | None = None) -> Kernels:
    """Return the compiled kernels where they can be built for device and precision, else stock torch's."""
    if device is None or device.type == "cpu":
        try:
            return NativeKernels(precision)
        except CompilerMissingError as reason:
            log.info("kernels: stock torch (%s)", reason)
    return StockKernels(precision, device)


class Engine:
    """A stage-2 network, run band by band.

    Args:
        model: the network, on the device it is to run on.
        precision: of the large products; all else is float32. 16-bit results that are not finite are
            computed again in float32.
        storage: of feature maps between sweeps; 16 bit halve what grows with the photo, at a loss.
        max_memory: bytes the engine may need beside the network. None: what the machine has.
        threads: CPU threads; None as many as torch uses.
        window: side, in pixels of the photo, of what an attention's sums are taken over; None is all of it.
        window_prior: whether each window has an IPR of its own, too.
        folder: for maps that do not fit under the limit; None is the system's temporary folder.
        kernels: chosen by device and precision if not given.
    """

    def __init__(
        self,
        model: DiffIRS2,
        *,
        precision: torch.dtype = torch.float32,
        storage: torch.dtype = torch.float32,
        max_memory: int | None = None,
        threads: int | None = None,
        window: int | None = None,
        window_prior: bool = False,
        folder: Path | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        self.model = model
        self.kernels = kernels or choose_kernels(precision, model.dirformer.embed.weight.device)
        self.threads = threads or (torch.get_num_threads() if self._on_cpu else 1)
        self.storage, self.max_memory, self.folder = storage, max_memory, folder
        self.window = None if window is None else check_window(window, model.config.multiple)
        self.window_prior = window_prior
        self.plan = Plan(self.threads, storage, keep_packed=True)
        self._packed: dict[nn.Module, Any] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._on_host = False
        self.on_progress: Callable[[float], None] | None = None
        """Told the share of a photo's work that is done, behind each block."""
        self.passes = (0, 1)
        """The pass at work, and how many there are over the same photo, whose mean is taken outside."""
        self._done, self._work = 0.0, 1.0

    @property
    def _on_cpu(self) -> bool:
        return self.kernels.device.type == "cpu"

    def plan_for(self, height: int, width: int) -> Plan:
        """Return how a photo of that (padded) size would be restored; see `make_plan`."""
        plan = functools.partial(
            make_plan,
            self.model.config,
            height,
            width,
            threads=self.threads,
            storage=self.storage,
            cells=(1, 1)
            if self.window is None
            else (count_cells(height, self.window), count_cells(width, self.window)),
            parameters=sum(p.numel() for p in self.model.parameters()),
            mean=self.passes[1] > 1,
            folder=self.folder,
        )
        if self.max_memory is not None or not self._on_cpu:
            return plan(max_memory=self.max_memory)
        free, unlimited = available_memory(), plan()
        # Maps on disk rather than a machine that swaps.
        return unlimited if free is None or unlimited.peak <= 0.9 * free else plan(max_memory=int(0.9 * free))

    @torch.inference_mode()
    def restore(
        self, lq: Float[Tensor, "b c h w"], noise: Float[Tensor, "n b p"]
    ) -> Float[Tensor, "b 3 H W"]:
        """Restore as the network does: `model(lq, noise)`."""
        # Photo by photo, so that none's bytes depend on the others of its batch.
        photos = zip(torch.split(lq, 1), torch.split(noise, 1, dim=1), strict=True)
        return torch.stack([self._checked(photo, self._prior(photo, z)) for photo, z in photos])

    def _prior(self, lq: Tensor, noise: Float[Tensor, "n 1 p"]) -> Float[Tensor, "w p"]:
        """Return one photo's IPR, or one for each window."""
        with self._working(lq):
            condition = self.model.cpen.head(self._pooled(self.model.cpen, lq, windows=self.window_prior))
        return self.model.estimate(condition, noise.expand(-1, len(condition), -1))[-1]

    @torch.inference_mode()
    def condition(self, lq: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p"]:
        """CPEN: `model.cpen(lq)`."""
        with self._working(lq):
            pooled = [self._pooled(self.model.cpen, photo[None]) for photo in lq]
        return torch.cat([self.model.cpen.head(mean) for mean in pooled])

    @torch.inference_mode()
    def restore_under(
        self, lq: Float[Tensor, "b c h w"], prior: Float[Tensor, "b p"]
    ) -> Float[Tensor, "b 3 H W"]:
        """The DIRformer under a given IPR: `model.dirformer(lq, prior)`."""
        photos = list(zip(torch.split(lq, 1), torch.split(prior, 1), strict=True))
        return torch.stack([self._checked(photo, z) for photo, z in photos])

    def _checked(self, lq: Tensor, prior: Tensor) -> Tensor:
        net = self.model.dirformer
        try:
            with self._working(lq):
                out = self._dirformer(net, lq, prior)
        except torch.OutOfMemoryError:
            if self._on_host or self._on_cpu:
                raise
            log.warning(
                "%d×%d: too large for %s; maps wait on the host",
                lq.shape[3],
                lq.shape[2],
                self.kernels.device,
            )
            self._on_host = True
            return self._checked(lq, prior)
        if self.kernels.precision == torch.float32 or bool(out.isfinite().all()):
            return out
        log.warning("16-bit arithmetic overflowed; this photo is restored in float32")
        return self._in_float32()._checked(lq, prior)  # noqa: SLF001

    def _in_float32(self) -> Engine:
        engine = Engine(
            self.model,
            storage=self.storage,
            max_memory=self.max_memory,
            threads=self.threads,
            window=self.window,
            window_prior=self.window_prior,
            folder=self.folder,
        )
        engine.passes = self.passes
        return engine

    # ---------------------------------------------------------------------------------------- networks

    def _pooled(self, cpen: CPEN, lq: Tensor, *, windows: bool = False) -> Float[Tensor, "w p"]:
        """Return the mean of CPEN's map, over the photo or over each window."""
        height, width = lq.shape[2] // cpen.lq_factor, lq.shape[3] // cpen.lq_factor
        rows, columns = self._axes(height, width) if windows else (make_axis(height, 1), make_axis(width, 1))

        def features() -> Source:
            x: Source = PhotoRows(lq, cpen.lq_factor)
            x = self._convolved(cpen.embed, x, slope=SLOPE)
            for block in cpen.blocks:
                assert isinstance(block, ResidualBlock)
                x = self._convolved(block.second, self._convolved(block.first, x, slope=SLOPE), added=x)
            for widen in cpen.widen:
                x = self._convolved(widen, x, slope=SLOPE)
            return x

        def sums(lo: int, hi: int) -> list[Tensor]:
            source = features()
            step = max(1, STEP // 4 // source.width)  # many stages, each with rows of its own
            parts = (source.read(y, min(hi, y + step)) for y in range(lo, hi, step))
            # Row by row and in float64, so that the mean does not depend on where bands end.
            lines = (row.cpu().double() for part in parts for row in part)
            return [
                torch.stack([line[a:b].sum(0) for a, b in itertools.pairwise(columns.bounds)])
                for line in lines
            ]

        lines = torch.stack([line for part in self._in_bands(height, sums) for line in part])  # y cells p
        cells = torch.stack([lines[a:b].sum(0) for a, b in itertools.pairwise(rows.bounds)])
        sizes = [torch.tensor(axis.bounds).diff().double() for axis in (rows, columns)]
        totals, counts = (_windows_of(t, rows, columns) for t in (cells, torch.outer(*sizes)[..., None]))
        return (totals / counts).flatten(0, 1).float().to(lq.device)

    def _dirformer(self, net: DIRformer, lq: Tensor, prior: Tensor) -> Tensor:
        config = net.config
        photo = PhotoRows(lq, config.unshuffle)
        self._done, self._work = 0.0, _work(config, photo.height * photo.width)
        x = self._map("level 1", photo.height, photo.width, config.dim)
        self._fill(x, lambda: self._convolved(net.embed, photo))
        self._level(x, net.encoder[0], prior)
        skips = []
        for i in range(LEVELS - 1):
            skips.append(x)
            x = self._down(net, i, x)
            self._level(x, net.encoder[i + 1], prior)
        for i in reversed(range(LEVELS - 1)):
            x = self._up(net, i, x, skips.pop())
            self._level(x, net.decoder[i], prior)
        self._level(x, net.refinement, prior)
        return self._tail(net, x, lq)

    def _down(self, net: DIRformer, i: int, source: Map) -> Map:
        x = self._map(f"level {i + 2}", source.height // 2, source.width // 2, 2 * source.channels)
        self._fill(x, lambda: self._convolved(net.down[i], MapRows(source), shuffle=-2), read=[(source, 2.0)])
        return x

    def _up(self, net: DIRformer, i: int, source: Map, skip: Map) -> Map:
        def joined() -> Source:
            return Joined(self._convolved(net.up[i], MapRows(source), shuffle=2), MapRows(skip))

        if i > 0:
            # Reduced to the skip's width, row by row into the skip's own memory.
            reduce = net.reduce[i - 1]
            self._fill(skip, lambda: self._convolved(reduce, joined()), used_up=[(source, 0.5)])
            return skip
        x = self._map("decoder 1", skip.height, skip.width, 2 * skip.channels)
        self._fill(x, joined, used_up=[(source, 0.5), (skip, 1.0)])
        return x

    def _tail(self, net: DIRformer, x: Map, lq: Tensor) -> Tensor:
        scale = net.config.scale * net.config.unshuffle

        def tail() -> Source:
            source: Source = MapRows(x)
            layers = list(net.tail)
            for layer, after in zip(layers, [*layers[1:], None], strict=True):
                if isinstance(layer, nn.Upsample):
                    source = Doubled(source)
                elif isinstance(layer, nn.Conv2d):
                    shuffle = after.upscale_factor if isinstance(after, nn.PixelShuffle) else 0
                    slope = after.negative_slope if isinstance(after, nn.LeakyReLU) else 1.0
                    source = self._convolved(layer, source, shuffle=shuffle, slope=slope)
            return source

        out = lq.new_zeros(3, x.height * scale, x.width * scale)
        out += net.skip(lq)[0] if net.config.skip != "none" else 0
        step = max(1, STEP // (x.width * scale))

        def write(lo: int, hi: int) -> None:
            source = tail()
            for y in range(lo * scale, hi * scale, step):
                end = min(hi * scale, y + step)
                out[:, y:end] += source.read(y, end).movedim(2, 0)
                x.evict(lo, end // scale - 2)

        self._in_bands(x.height, write)
        return out

    def _level(self, x: Map, level: nn.Module, prior: Float[Tensor, "w p"]) -> None:
        for block in level.children():
            assert isinstance(block, Block)
            packed = self._pack(block, functools.partial(self.kernels.pack_block, block))
            self._attend(x, block, packed, self._modulation(x, block.attention.norm, prior))
            self._feed(x, packed, self._modulation(x, block.feed_forward.norm, prior))
            self._done += x.height * x.width * x.channels**2
            if self.on_progress is not None:
                done, passes = self.passes
                self.on_progress((done + self._done / self._work) / passes)

    def _modulation(self, x: Map, norm: ModulatedNorm, prior: Float[Tensor, "w p"]) -> ModulationOf:
        scale, shift = (values.float().contiguous() for values in norm.folded(prior))
        if len(prior) == 1:
            return lambda y, band: Modulation(scale[0], shift[0])  # noqa: ARG005
        rows, columns = self._axes(x.height, x.width)
        scale, shift = (values.view(rows.windows, columns.windows, -1) for values in (scale, shift))

        def of_band(y: int, band: Band) -> Modulation:
            lo, hi = y - 1, y + len(band["x"]) + 1
            return Modulation(rows.blend(scale, lo, hi), rows.blend(shift, lo, hi), columns)

        return of_band

    def _attend(self, x: Map, block: Block, packed: Any, modulation: ModulationOf) -> None:
        rows, columns = self._axes(x.height, x.width)
        if rows.cells == columns.cells == 1:
            mixing = self._mixing(x, block, packed, modulation)
            self._sweep(x, lambda y, band: self.kernels.attend(packed, modulation(y, band), mixing, **band))
            return
        cells = self._cell_sums(x, packed, modulation)

        def mixings(i: int) -> Any:
            windows = [
                columns.pairs(torch.stack(sums[i : i + 2]).sum(0)) for sums in zip(*cells, strict=True)
            ]
            mixing = block.attention.mixing(*(t.to(self.kernels.device) for t in windows))
            return self.kernels.pack_mixings(mixing)

        local = threading.local()

        def attend(y: int, band: Band) -> None:
            top = int(rows.left[y])
            wanted, kept = (top, min(top + 1, rows.windows - 1)), getattr(local, "kept", {})
            local.kept = kept = {i: kept[i] if i in kept else mixings(i) for i in wanted}
            down = rows.share[y : y + len(band["x"])]
            blend = Blend(kept[wanted[1]], down, columns)
            self.kernels.attend(packed, modulation(y, band), kept[top], **band, blend=blend)

        self._sweep(x, attend, cuts=rows.ends)

    def _feed(self, x: Map, packed: Any, modulation: ModulationOf) -> None:
        self._sweep(x, lambda y, band: self.kernels.feed(packed, modulation(y, band), **band))

    def _mixing(self, x: Map, block: Block, packed: Any, modulation: ModulationOf) -> Any:
        rows = self._block_rows(x.height, x.width)
        bands = self._sweep(
            x, lambda y, band: self.kernels.statistics(packed, modulation(y, band), **band, rows=rows)
        )
        parts = zip(*(part for band in bands for part in band), strict=True)
        sums = [torch.cat(part).cpu().double().sum(0).float() for part in parts]
        return self.kernels.pack_mixing(block.attention.mixing(*(t.to(self.kernels.device) for t in sums))[0])

    def _cell_sums(self, x: Map, packed: Any, modulation: ModulationOf) -> list[list[Tensor]]:
        """Return what an attention needs to know, summed over each cell: per row of cells, `cells …` each."""
        rows, columns = self._axes(x.height, x.width)
        block_rows = self._block_rows(x.height, x.width)
        totals: dict[int, list[Tensor]] = {}

        def add(y: int, band: Band) -> None:
            parts = self.kernels.statistics(
                packed, modulation(y, band), **band, rows=block_rows, bounds=columns.bounds
            )
            cell = rows.cell(y)
            # One after the other, so that it does not matter where pieces end.
            for sums in zip(*(part.cpu().double() for part in parts), strict=True):
                known = totals.get(cell)
                totals[cell] = list(sums) if known is None else list(map(torch.add, known, sums))
            if y + len(band["x"]) == rows.bounds[cell + 1]:
                totals[cell] = [total.float() for total in totals[cell]]

        count = self.kernels.bands(self.plan.threads, rows.cells)
        ends = [rows.bounds[rows.cells * i // count] for i in range(count + 1)]
        self._sweep(x, add, bands=list(itertools.pairwise(ends)), cuts=rows.bounds)
        return [totals[cell] for cell in range(rows.cells)]

    def _axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        return make_axis(height, self.plan.cells[0]), make_axis(width, self.plan.cells[1])

    # ------------------------------------------------------------------------------------- bands of rows

    def _sweep(
        self,
        x: Map,
        work: Callable[[int, Band], Any],
        *,
        bands: list[tuple[int, int]] | None = None,
        cuts: list[int] | None = None,
    ) -> list[list[Any]]:
        """Call `work(y, band)` on every band of the map from its row y, in pieces if not all is in memory.

        Pieces also end at the rows of `cuts`.
        """
        piece = self._piece(x)
        bands = bands or self._bands(x.height, x.width)
        # The neighbours of a band as they are before anything is overwritten.
        edges = {y: (x.rows[y - 1 : y].clone(), x.rows[y : y + 1].clone()) for y, _ in bands if y}

        def run(lo: int, hi: int) -> list[Any]:
            above, results = edges[lo][0] if lo else None, []
            for y, end in _pieces(lo, hi, piece, cuts or []):
                below = None if end == x.height else edges[end][1] if end == hi else x.rows[end : end + 1]
                next_above = x.rows[end - 1 : end].clone()
                results.append(work(y, {"x": x.rows[y:end], "above": above, "below": below}))
                above = next_above
                x.evict(y, end)
            return results

        return self._each(bands, run)

    def _fill(
        self,
        x: Map,
        source_of: Callable[[], Source],
        read: list[tuple[Map, float]] | None = None,
        used_up: list[tuple[Map, float]] | None = None,
    ) -> None:
        """Write a source's rows into a map, from maps `read`, and `used_up` too: those are given back.

        Both come with their rows per row of x.
        """
        step = max(1, STEP // x.width) // 2 * 2 or 2

        def run(lo: int, hi: int) -> None:
            source = source_of()
            for y in range(lo, hi, step):
                end = min(hi, y + step)
                x.rows[y:end] = source.read(y, end)
                x.evict(y, end)
                for other, ratio in read or []:
                    other.evict(math.floor(lo * ratio), math.floor(end * ratio) - 2)
                for used, ratio in used_up or []:
                    # The neighbouring bands may still need this band's outer rows.
                    used.release(math.ceil(lo * ratio) + 1, math.floor(end * ratio) - 2)

        self._each(self._bands(x.height, x.width), run)

    def _in_bands(self, height: int, run: Callable[[int, int], Any], width: int = 1) -> list[Any]:
        return self._each(self._bands(height, width), run)

    def _bands(self, height: int, width: int) -> list[tuple[int, int]]:
        rows = self._block_rows(height, width)
        blocks = -(-height // rows)
        count = self.kernels.bands(self.plan.threads, blocks)
        ends = [min(height, rows * (blocks * i // count)) for i in range(count + 1)]
        return list(itertools.pairwise(ends))

    def _block_rows(self, height: int, width: int) -> int:
        """Rows per set of sums: a share of the height; even, for the pixel-unshuffles."""
        return max(8, 2 * math.ceil(height / 128), self.kernels.strip(width) // 2 * 2)

    def _piece(self, x: Map) -> int:
        if x.resident >= x.height:
            return x.height
        rows = math.lcm(self._block_rows(x.height, x.width), self.kernels.strip(x.width))
        return max(1, PIECE // (rows * x.row_bytes)) * rows

    # --------------------------------------------------------------------------------------------- parts

    def _convolved(
        self,
        conv: nn.Module,
        source: Source,
        shuffle: int = 0,
        slope: float = 1.0,
        added: Source | None = None,
    ) -> Source:
        assert isinstance(conv, nn.Conv2d)
        packed = self._pack(conv, lambda: self.kernels.pack_conv(conv, shuffle, slope))
        return Convolved(self.kernels, packed, source, shuffle, added)

    def _map(self, name: str, height: int, width: int, channels: int) -> Map:
        return Map(
            height,
            width,
            channels,
            dtype=self.storage,
            device=self.kernels.device,
            resident=0 if self._on_host else self.plan.resident.get(name),
            folder=self.plan.folder,
        )

    def _pack(self, module: nn.Module, make: Callable[[], Any]) -> Any:
        if not self.plan.keep_packed:
            return make()
        if module not in self._packed:
            self._packed[module] = make()
        return self._packed[module]

    # ------------------------------------------------------------------------------------------- threads

    def _each(self, bands: list[tuple[int, int]], run: Callable[[int, int], Any]) -> list[Any]:
        if self._pool is None or len(bands) == 1:
            return [run(*band) for band in bands]

        @torch.inference_mode()  # is per thread
        def task(band: tuple[int, int]) -> Any:
            return run(*band)

        return list(self._pool.map(task, bands))

    @contextmanager
    def _working(self, lq: Tensor) -> Iterator[None]:
        """Run one torch thread per band, rather than threads inside each operator."""
        plan = self.plan_for(*lq.shape[2:])
        if plan != self.plan:
            self.plan = plan
            log.info("%d×%d: %s; kernels: %s", lq.shape[3], lq.shape[2], plan, self.kernels.name)
        if not plan.keep_packed:
            self._packed.clear()
        if self.kernels.device.type != "cpu":
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if plan.threads == 1:
                yield
                return

            with ThreadPoolExecutor(
                plan.threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as self._pool:
                yield
        finally:
            self._pool = None
            torch.set_num_threads(before)


def _pieces(lo: int, hi: int, rows: int, cuts: list[int]) -> Iterator[tuple[int, int]]:
    """Cut lo to hi at `cuts`, and each part into pieces of so many rows."""
    for start, stop in itertools.pairwise([lo, *(cut for cut in cuts if lo < cut < hi), hi]):
        for y in range(start, stop, rows):
            yield y, min(stop, y + rows)


def _windows_of(cells: Float[Tensor, "y x n"], rows: Axis, columns: Axis) -> Float[Tensor, "v w n"]:
    return columns.pairs(rows.pairs(cells).movedim(1, 0)).movedim(0, 1)


def _work(config: ModelConfig, pixels: int) -> float:
    """Return the work of all blocks, pixels × channels² each: nearly all of a photo's time."""
    counts = [*zip(config.blocks, config.widths, range(LEVELS), strict=True)]
    # The decoder repeats levels 3 to 1, at twice the width on level 1; refinement stands there too.
    counts += [(config.blocks[i], config.widths[max(i, 1)], i) for i in range(LEVELS - 1)]
    counts.append((config.refinement_blocks, 2 * config.dim, 0))
    return sum(count * width**2 * pixels / 4**level for count, width, level in counts)
