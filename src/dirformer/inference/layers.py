"""The network's layers in order, on one photo, band by band.

Only CPEN's mean and each attention's Gram matrix are global; the rest is 3×3. So a block is three sweeps over
its map, in place, and its wide intermediates never leave the cache:

1. norm → queries and keys → depth-wise → sums of q·kᵀ, q², k²;
2. norm → values → depth-wise → attention merged with the projection → added to the map;
3. norm → expansion → depth-wise → gate → projection → added to the map.

With context windows (`context.py`) the first sweep sums cell by cell, and the second blends attentions.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dirformer.inference.bands import Band, Bands
from dirformer.inference.context import make_axis
from dirformer.inference.maps import Map
from dirformer.inference.sources import Convolved, Doubled, Joined, MapRows, PhotoRows, Source
from dirformer.kernels.protocol import Axis, Blend, Kernels, Modulation, block_weights, conv_weights
from dirformer.networks.config import LEVELS, ModelConfig
from dirformer.networks.dirformer import Block, DIRformer, ModulatedNorm
from dirformer.networks.prior import CPEN, SLOPE, ResidualBlock

ModulationOf = Callable[[int, Band], Modulation]
"""The scale and shift of a norm's result, in a band that begins at row y of its map."""
Progress = Callable[[float], None]
"""Told the share of the work that is done, 0 to 1."""
Packs = dict[nn.Module, Any]
"""Weights in the kernels' order, by module."""


@dataclass
class Layers:
    """The layers of a network at work on one photo."""

    kernels: Kernels
    bands: Bands
    packs: Packs
    """Reordered weights that stay for the next photo."""
    on_host: bool = False
    """Whether maps wait in the host's memory because the device is too small."""
    progress: Progress | None = None
    """Told after each block."""

    # ---------------------------------------------------------------------------------------- networks

    def pooled(
        self, cpen: CPEN, lq: Float[Tensor, "1 c h w"], *, windows: bool
    ) -> Float[Tensor, "windows p"]:
        """Return the mean of CPEN's map, over the photo or over each window."""
        height, width = lq.shape[2] // cpen.lq_factor, lq.shape[3] // cpen.lq_factor
        rows, columns = self._axes(height, width) if windows else (make_axis(height, 1), make_axis(width, 1))
        lines = self.bands.row_sums(height, lambda: self._features(cpen, lq), columns.bounds)
        cells = torch.stack([lines[a:b].sum(0) for a, b in itertools.pairwise(rows.bounds)])
        sizes = [torch.tensor(axis.bounds).diff().double() for axis in (rows, columns)]
        totals, counts = (_windows_of(t, rows, columns) for t in (cells, torch.outer(*sizes)[..., None]))
        return (totals / counts).flatten(0, 1).float().to(lq.device)

    def _features(self, cpen: CPEN, lq: Tensor) -> Source:
        x: Source = PhotoRows(lq, cpen.lq_factor)
        x = self._convolved(cpen.embed, x, slope=SLOPE)
        for block in cpen.blocks:
            assert isinstance(block, ResidualBlock)
            x = self._convolved(block.second, self._convolved(block.first, x, slope=SLOPE), added=x)
        for widen in cpen.widen:
            x = self._convolved(widen, x, slope=SLOPE)
        return x

    def dirformer(
        self, net: DIRformer, lq: Float[Tensor, "1 c h w"], prior: Float[Tensor, "windows p"]
    ) -> Float[Tensor, "3 H W"]:
        """Restore a photo under its IPR, or under one IPR for each window."""
        config = net.config
        photo = PhotoRows(lq, config.unshuffle)
        done = _Done(_work(config, photo.height * photo.width), self.progress)
        x = self._map("level 1", photo.height, photo.width, config.dim)
        self.bands.fill(x, lambda: self._convolved(net.embed, photo))
        self._level(x, net.encoder[0], prior, done)
        skips = []
        for i in range(LEVELS - 1):
            skips.append(x)
            x = self._down(net, i, x)
            self._level(x, net.encoder[i + 1], prior, done)
        for i in reversed(range(LEVELS - 1)):
            x = self._up(net, i, x, skips.pop())
            self._level(x, net.decoder[i], prior, done)
        self._level(x, net.refinement, prior, done)
        return self._tail(net, x, lq)

    def _down(self, net: DIRformer, i: int, source: Map) -> Map:
        x = self._map(f"level {i + 2}", source.height // 2, source.width // 2, 2 * source.channels)
        rows = MapRows(source)
        self.bands.fill(x, lambda: self._convolved(net.down[i], rows, shuffle=-2), read=[(source, 2.0)])
        return x

    def _up(self, net: DIRformer, i: int, source: Map, skip: Map) -> Map:
        def joined() -> Source:
            return Joined(self._convolved(net.up[i], MapRows(source), shuffle=2), MapRows(skip))

        if i > 0:
            # Reduced to the skip's width, row by row into the skip's own memory.
            reduce = net.reduce[i - 1]
            self.bands.fill(skip, lambda: self._convolved(reduce, joined()), used_up=[(source, 0.5)])
            return skip
        x = self._map("decoder 1", skip.height, skip.width, 2 * skip.channels)
        self.bands.fill(x, joined, used_up=[(source, 0.5), (skip, 1.0)])
        return x

    def _tail(self, net: DIRformer, x: Map, lq: Tensor) -> Tensor:
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

        scale = net.config.scale * net.config.unshuffle
        out = lq.new_zeros(3, x.height * scale, x.width * scale)
        out += net.skip(lq)[0] if net.config.skip != "none" else 0
        self.bands.write(x, out, scale, tail)
        return out

    # ------------------------------------------------------------------------------------------- blocks

    def _level(self, x: Map, level: nn.Module, prior: Float[Tensor, "windows p"], done: _Done) -> None:
        for block in level.children():
            packed = self._pack(block, functools.partial(self._pack_block, block))
            assert isinstance(block, Block)
            self._attend(x, block, packed, self._modulation(x, block.attention.norm, prior))
            self._feed(x, packed, self._modulation(x, block.feed_forward.norm, prior))
            done.add(x.height * x.width * x.channels**2)

    def _pack_block(self, block: nn.Module) -> Any:
        return self.kernels.pack_block(block_weights(block))

    def _modulation(self, x: Map, norm: ModulatedNorm, prior: Float[Tensor, "windows p"]) -> ModulationOf:
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
            attend = self.kernels.attend
            self.bands.sweep(x, lambda y, band: attend(packed, modulation(y, band), mixing, **band))
        else:
            self._attend_in_windows(x, block, packed, modulation)

    def _attend_in_windows(self, x: Map, block: Block, packed: Any, modulation: ModulationOf) -> None:
        rows, columns = self._axes(x.height, x.width)
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

        self.bands.sweep(x, attend, cuts=rows.ends)

    def _feed(self, x: Map, packed: Any, modulation: ModulationOf) -> None:
        self.bands.sweep(x, lambda y, band: self.kernels.feed(packed, modulation(y, band), **band))

    def _mixing(self, x: Map, block: Block, packed: Any, modulation: ModulationOf) -> Any:
        rows, statistics = self.bands.block_rows(x.height, x.width), self.kernels.statistics
        bands = self.bands.sweep(
            x, lambda y, band: statistics(packed, modulation(y, band), **band, rows=rows)
        )
        parts = zip(*(part for band in bands for part in band), strict=True)
        # In float64, so that the sums do not depend on where bands end; CUDA has it, other GPUs do not.
        sums = [torch.cat(part) for part in parts]
        sums = sums if self.kernels.device.type == "cuda" else [total.cpu() for total in sums]
        sums = [total.double().sum(0).float().to(self.kernels.device) for total in sums]
        return self.kernels.pack_mixing(block.attention.mixing(*sums)[0])

    def _cell_sums(self, x: Map, packed: Any, modulation: ModulationOf) -> list[list[Tensor]]:
        """Return an attention's sums over each cell: per row of cells, `cells …` each."""
        rows, columns = self._axes(x.height, x.width)
        block_rows = self.bands.block_rows(x.height, x.width)
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

        count = self.kernels.bands(self.bands.plan.threads, rows.cells)
        ends = [rows.bounds[rows.cells * i // count] for i in range(count + 1)]
        self.bands.sweep(x, add, bands=list(itertools.pairwise(ends)), cuts=rows.bounds)
        return [totals[cell] for cell in range(rows.cells)]

    # --------------------------------------------------------------------------------------------- parts

    def _axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        down, across = self.bands.plan.cells
        return make_axis(height, down), make_axis(width, across)

    def _convolved(
        self,
        conv: nn.Module,
        source: Source,
        shuffle: int = 0,
        slope: float = 1.0,
        added: Source | None = None,
    ) -> Source:
        packed = self._pack(conv, lambda: self.kernels.pack_conv(conv_weights(conv), shuffle, slope))
        return Convolved(self.kernels, packed, source, shuffle, added)

    def _map(self, name: str, height: int, width: int, channels: int) -> Map:
        plan = self.bands.plan
        return Map(
            height,
            width,
            channels,
            dtype=plan.storage,
            device=self.kernels.device,
            resident=0 if self.on_host else plan.resident.get(name),
            folder=plan.folder,
        )

    def _pack(self, module: nn.Module, make: Callable[[], Any]) -> Any:
        if not self.bands.plan.keep_packed:
            return make()
        if module not in self.packs:
            self.packs[module] = make()
        return self.packs[module]


class _Done:
    """Counts the work that is done, and tells the share."""

    def __init__(self, total: float, progress: Progress | None) -> None:
        self._total, self._done, self._progress = total, 0, progress

    def add(self, work: int) -> None:
        self._done += work
        if self._progress is not None:
            self._progress(self._done / self._total)


def _windows_of(cells: Float[Tensor, "y x n"], rows: Axis, columns: Axis) -> Float[Tensor, "v w n"]:
    return columns.pairs(rows.pairs(cells).movedim(1, 0)).movedim(0, 1)


def _work(config: ModelConfig, pixels: int) -> float:
    """Return the work of all blocks, pixels × channels² each: nearly all of a photo's time."""
    counts = [*zip(config.blocks, config.widths, range(LEVELS), strict=True)]
    # The decoder repeats levels 3 to 1, at twice the width on level 1; refinement is on level 1 too.
    counts += [(config.blocks[i], config.widths[max(i, 1)], i) for i in range(LEVELS - 1)]
    counts.append((config.refinement_blocks, 2 * config.dim, 0))
    return sum(count * width**2 * pixels / 4**level for count, width, level in counts)
