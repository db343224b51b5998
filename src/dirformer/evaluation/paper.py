"""What the paper prints, cell by cell, as far as it is quoted here; never mixed with what was measured.

A table is a literal: cases (data set and protocol) × methods. Only cells whose figure could be checked
against a second source are filled; the others are missing, and `with_cells` takes them from a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from dirformer.ground.errors import ConfigError, DataError

Cells = dict[str, dict[str, dict[str, float]]]
"""case → method → metric → figure as printed."""


@dataclass(frozen=True)
class Case:
    """One column group of a table: a test set in its official layout, and how it is scored."""

    name: str
    protocol: str
    preset: str
    """The network that the paper used, a name of PRESETS."""
    layouts: tuple[tuple[str, str], ...]
    """Folders of LQ and GT below the data folder; the first pair that is there is taken."""
    count: int
    """Photos in the published set."""
    masks: tuple[str, ...] = ()
    """Folders of masks, one per layout."""


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper."""

    name: str
    title: str
    cases: tuple[Case, ...]
    quoted: Cells


def _lama(name: str, folder: str, kind: str, count: int, side: int) -> Case:
    # LaMa's layout: photos and NAME_mask000.png in one folder.
    place = f"{folder}/random_{kind}_{side}"
    return Case(name, "inpainting", "inpainting", ((place, place),), count, (place,))


def _pairs(name: str, protocol: str, preset: str, count: int, *layouts: tuple[str, str]) -> Case:
    return Case(name, protocol, preset, layouts, count)


def _sr(name: str, count: int) -> Case:
    return _pairs(
        name,
        "sr",
        "sr-x4",
        count,
        (f"{name}/LR_bicubic/X4", f"{name}/HR"),
        (f"{name}/LRx4", f"{name}/HRx4"),
        (f"{name}/LRbicx4", f"{name}/GTmod12"),
    )


_TABLE_1 = Table(
    "table1",
    "Inpainting: FID and LPIPS on Places (512×512) and CelebA-HQ (256×256), narrow and wide masks",
    (
        _lama("Places narrow", "places_standard_dataset/evaluation", "thin", 30_000, 512),
        _lama("Places wide", "places_standard_dataset/evaluation", "thick", 30_000, 512),
        _lama("CelebA-HQ narrow", "celeba-hq-dataset/visual_test_256", "thin", 2_000, 256),
        _lama("CelebA-HQ wide", "celeba-hq-dataset/visual_test_256", "thick", 2_000, 256),
    ),
    {},
)
_TABLE_2 = Table(
    "table2",
    "Super-resolution ×4: LPIPS and DISTS",
    (
        _sr("Manga109", 109),
        _sr("Set14", 14),
        _sr("General100", 100),
        _sr("Urban100", 100),
        _sr("DIV2K100", 100),
    ),
    {},
)
_TABLE_3 = Table(
    "table3",
    "Motion deblurring: PSNR and SSIM on GoPro and HIDE",
    (
        _pairs(
            "GoPro",
            "deblurring",
            "deblurring",
            1111,
            ("GoPro/test/input", "GoPro/test/target"),
            ("test/GoPro/input", "test/GoPro/target"),
            ("GoPro/test/blur", "GoPro/test/sharp"),
        ),
        _pairs(
            "HIDE",
            "deblurring",
            "deblurring",
            2025,
            ("HIDE/test/input", "HIDE/test/target"),
            ("test/HIDE/input", "test/HIDE/target"),
        ),
    ),
    {
        "GoPro": {
            "MIMO-UNet+": {"psnr": 32.45},
            "MPRNet": {"psnr": 32.66},
            "Restormer": {"psnr": 32.92},
            "DiffIR": {"psnr": 33.20},
        },
        "HIDE": {"Restormer": {"psnr": 31.22}},
    },
)
_TABLE_4 = Table(
    "table4",
    "Ablation on CelebA-HQ: the oracle IPR, joint optimisation, variance in the reverse steps",
    # Which masks the ablations used could not be checked; wide ones are taken.
    (_lama("CelebA-HQ", "celeba-hq-dataset/visual_test_256", "thick", 2_000, 256),),
    {
        "CelebA-HQ": {
            "DiffIR-S2 V3 (joint, no variance)": {"fid": 5.1440},
            "DiffIR-S2 V4 (variance inserted)": {"fid": 5.1937},
        }
    },
)
_TABLE_5 = replace(_TABLE_4, name="table5", title="Ablation on CelebA-HQ: the loss on the IPR", quoted={})
_TABLE_6 = Table(
    "table6",
    "Real-world super-resolution ×4: LPIPS, DISTS and PSNR",
    (
        _pairs(
            "NTIRE2020-Track1", "realsr", "realsr-x4", 100, ("NTIRE2020/LR", "NTIRE2020/HR"),
            ("NTIRE2020-Track1/LR", "NTIRE2020-Track1/HR"),
        ),
        _pairs("RealSRSet", "realsr", "realsr-x4", 100, ("RealSR/test/LR", "RealSR/test/HR")),
    ),
    {},
)  # fmt: skip
_FIG_1 = replace(_TABLE_3, name="fig1", title="Quality against Mult-Adds")
_FIG_6 = replace(_TABLE_4, name="fig6", title="FID against the number of timesteps T", quoted={})

TABLES = {t.name: t for t in (_TABLE_1, _TABLE_2, _TABLE_3, _TABLE_4, _TABLE_5, _TABLE_6, _FIG_1, _FIG_6)}


def paper_table(name: str) -> Table:
    """Return the table or figure of that name; ConfigError lists the names there are."""
    if name not in TABLES:
        raise ConfigError(f"no table {name!r}; there are: {', '.join(TABLES)}")
    return TABLES[name]


def with_cells(table: Table, path: Path) -> Table:
    """Return a table with further quoted cells from a JSON file: {case: {method: {metric: figure}}}.

    Raises:
        DataError: if the file is not of that form, or contradicts a cell that is quoted here.
    """
    try:
        cells: Cells = json.loads(path.read_text(encoding="utf-8"))
        flat = [
            (c, m, k, float(v))
            for c, rows in cells.items()
            for m, row in rows.items()
            for k, v in row.items()
        ]
    except (OSError, ValueError, AttributeError, TypeError):
        raise DataError(f"{path} cannot be read; expected {{case: {{method: {{metric: figure}}}}}}") from None
    quoted = {c: {m: dict(row) for m, row in rows.items()} for c, rows in table.quoted.items()}
    for case, method, metric, figure in flat:
        if case not in {c.name for c in table.cases}:
            raise DataError(
                f"{path} names {case!r}; {table.name} has {', '.join(c.name for c in table.cases)}"
            )
        known = quoted.setdefault(case, {}).setdefault(method, {}).setdefault(metric, figure)
        if known != figure:
            raise DataError(f"{path} has {figure} for {method} on {case}; the paper prints {known}")
    return replace(table, quoted=quoted)
