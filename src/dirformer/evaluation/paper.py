"""The tables and figures of the paper: test sets, protocols, networks, and what is printed.

A table is a literal of cases (data set and protocol); its printed cells come from `quotes.py`. They are never
mixed with what was measured.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dirformer.evaluation.quotes import Cells, Quote, printed, read_quote
from dirformer.evaluation.tables import title
from dirformer.ground.errors import ConfigError, DataError
from dirformer.metrics.table import METRICS

OURS = "DiffIR_S2 (Ours)"
"""How the paper names its own row."""


@dataclass(frozen=True)
class Case:
    """One column group of a table: a test set in its official layouts, and how it is scored."""

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
    archive: tuple[str, str] | None = None
    """The set and its part as `dirformer prepare` knows them: the layout of its archive, unpacked in a folder
    of the set's name, is read too."""
    unpacked: str = ""
    """The folder that the archive itself makes."""
    making: str = ""
    """Commands that make the set from what is published."""


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper."""

    name: str
    title: str
    cases: tuple[Case, ...]
    quoted: Cells
    ours: str = OURS
    """The printed row that a model is compared with."""
    rows: Mapping[str, str] = field(default_factory=dict)
    """Short name → printed row, for `--model ROW=FILE`."""
    notes: tuple[str, ...] = ()
    """Where the printed text and the printed table disagree, and what else a reader must know."""


def _masked(name: str, official: str, own: str, kind: str, count: int, side: int) -> Case:
    # LaMa's layout has photos and NAME_mask000.png in one folder, `dirformer masks` has gt/ and masks/.
    lama, made = f"{official}/random_{kind}_{side}", f"{own}/{'narrow' if kind == 'thin' else 'wide'}"
    layouts, masks = ((lama, lama), (f"{made}/gt", f"{made}/gt")), (lama, f"{made}/masks")
    pick = f" --pick {count}" if own == "places365" else ""
    photos = f"{own}/{'valid' if own == 'places365' else 'test'}/gt"
    command = f"dirformer prepare {own} IN -o DATA/{own}; dirformer masks --photos DATA/{photos}{pick} "
    command += f"--kind {made.rpartition('/')[2]} --size {side} -o DATA/{made}"
    return Case(name, "inpainting", "inpainting", layouts, count, masks, making=command)


def _sr(name: str, count: int, *more: tuple[str, str]) -> Case:
    own = name.lower()
    layouts = (
        (f"{name}/LR_bicubic/X4", f"{name}/HR"),
        (f"{name}/LRx4", f"{name}/HRx4"),
        (f"{name}/LRbicx4", f"{name}/GTmod12"),
        (f"{name}/x4/lq", f"{name}/x4/gt"),
        (f"{own}/x4/lq", f"{own}/x4/gt"),
        *more,
    )
    return Case(name, "sr", "sr-x4", layouts, count, making=f"dirformer prepare {own} IN -o DATA/{own}")


def _pairs(
    name: str, rules: tuple[str, str], count: int, archive: tuple[str, str, str], *layouts: tuple[str, str]
) -> Case:
    own, part, unpacked = archive
    made = (f"{own}/{part}/lq", f"{own}/{part}/gt")
    command = f"dirformer prepare {own} IN -o DATA/{own}"
    layouts = (*layouts, made)
    return Case(name, *rules, layouts, count, archive=(own, part), unpacked=unpacked, making=command)


_PLACES, _CELEBA = "places_standard_dataset/evaluation", "celeba-hq-dataset/visual_test_256"
_TABLE_1 = Table(
    "table1",
    "Inpainting: FID and LPIPS on Places (512×512) and CelebA-HQ (256×256), narrow and wide masks",
    (
        _masked("Places narrow", _PLACES, "places365", "thin", 30_000, 512),
        _masked("Places wide", _PLACES, "places365", "thick", 30_000, 512),
        _masked("CelebA-HQ narrow", _CELEBA, "celeba-hq", "thin", 2_000, 256),
        _masked("CelebA-HQ wide", _CELEBA, "celeba-hq", "thick", 2_000, 256),
    ),
    printed("table1").cells,
    notes=(
        "by value LaMa is second in LPIPS of Places wide (0.1339); no second is underlined there",
        "which 30,000 of Places' 36,500 photos the paper drew is not published; `masks --pick` draws its own",
    ),
)
_DIV2K = (
    ("DIV2K/DIV2K_valid_LR_bicubic/X4", "DIV2K/DIV2K_valid_HR"),
    ("DIV2K_valid_LR_bicubic/X4", "DIV2K_valid_HR"),
)
_TABLE_2 = Table(
    "table2",
    "Super-resolution ×4: LPIPS and DISTS",
    (
        _sr("Set5", 5),
        _sr("Set14", 14),
        _sr("General100", 100),
        _sr("Urban100", 100),
        replace(
            _sr("DIV2K100", 100, *_DIV2K, ("div2k/valid/x4/lq", "div2k/valid/x4/gt")),
            making="dirformer prepare div2k IN -o DATA/div2k",
        ),
    ),
    printed("table2").cells,
    notes=("two cells are bold in LPIPS of Set5: BebyGAN and DiffIR, both 0.0627",),
)
_DEBLURRING = ("deblurring", "deblurring")
_TABLE_3 = Table(
    "table3",
    "Motion deblurring: PSNR and SSIM on GoPro and HIDE",
    (
        _pairs(
            "GoPro",
            _DEBLURRING,
            1111,
            ("gopro", "test", "GOPRO_Large"),
            ("GoPro/test/input", "GoPro/test/target"),
            ("test/GoPro/input", "test/GoPro/target"),
            ("GoPro/test/blur", "GoPro/test/sharp"),
        ),
        _pairs(
            "HIDE",
            _DEBLURRING,
            2025,
            ("hide", "test", "HIDE_dataset"),
            ("HIDE/test/input", "HIDE/test/target"),
            ("test/HIDE/input", "test/HIDE/target"),
        ),
    ),
    printed("table3").cells,
    notes=(
        "Sec. 5.4 says 0.54 dB over MIMO-Unet+ on GoPro; the table gives 0.75 (0.54 is MPRNet's distance)",
    ),
)
_ABLATION = "the ablations are on wide masks: V3 and L_diff are CelebA-HQ wide of Table 1, 5.1440"
_TABLE_4 = Table(
    "table4",
    "Ablation on CelebA-HQ: the oracle IPR, joint optimisation, variance in the reverse steps",
    (_masked("CelebA-HQ wide", _CELEBA, "celeba-hq", "thick", 2_000, 256),),
    printed("table4").cells,
    ours="DiffIR_S2-V3 (Ours)",
    rows={"S1": "DiffIR_S1"} | {f"V{n}": f"DiffIR_S2-V{n}{' (Ours)' if n == 3 else ''}" for n in range(1, 5)},
    notes=(
        _ABLATION,
        "47.97 G and 51.63 G leave the attention products out; 51.63 G counts CPEN and denoiser twice",
    ),
)
_TABLE_5 = replace(
    _TABLE_4,
    name="table5",
    title="Ablation on CelebA-HQ: the loss on the IPR",
    quoted=printed("table5").cells,
    ours="L_diff (Eq. 13)",
    rows={"L1": "L_diff (Eq. 13)", "L2": "L_2 (Eq. 14)", "KL": "L_kl (Eq. 15)"},
    notes=(_ABLATION,),
)
_REALSR = ("realsr", "realsr-x4")
_TABLE_6 = Table(
    "table6",
    "Real-world super-resolution ×4: LPIPS, DISTS and PSNR",
    (
        _pairs(
            "RealSRSet",
            _REALSR,
            100,
            ("realsr", "test-x4", "RealSR(V3)"),
            ("RealSR/test/LR", "RealSR/test/HR"),
        ),
        _pairs(
            "NTIRE2020-Track1",
            _REALSR,
            100,
            ("ntire2020-track1", "valid", "NTIRE2020"),
            ("NTIRE2020/LR", "NTIRE2020/HR"),
            ("NTIRE2020-Track1/LR", "NTIRE2020-Track1/HR"),
        ),
    ),
    printed("table6").cells,
    notes=(
        "by value KDSR_s-GAN is second in PSNR of RealSRSet (27.18); no second is underlined there",
        "RealSRSet is the RealSR set of Cai et al., by its reference, not the unpaired pictures of that name",
        "RealSR 3 has LQ photos at the GT's size, how the paper reduced them is not said; give ×4 pairs",
        "0.74 T leaves the attention products out and counts CPEN and denoiser twice; 0.72 T counts all once",
    ),
)
_PICTURE = "the paper shows the points in a picture alone; those that tables print are quoted here"
_FIG_1 = Table(
    "fig1",
    "Quality against Mult-Adds of a 256×256 input: (a) inpainting, (b) super-resolution, (c) deblurring",
    (_TABLE_1.cases[3], _TABLE_2.cases[3], _TABLE_3.cases[0]),
    {
        case: of.quoted[case]
        for of, case in ((_TABLE_1, "CelebA-HQ wide"), (_TABLE_2, "Urban100"), (_TABLE_3, "GoPro"))
    },
    notes=(
        _PICTURE,
        "RePaint stands at 1000 times DiffIR's Mult-Adds, as the text says",
        "which test sets (a) and (b) show is not printed; CelebA-HQ wide and Urban100 are taken",
    ),
)
_FIG_6 = replace(
    _TABLE_4,
    name="fig6",
    title="FID against the number of timesteps T",
    quoted={"CelebA-HQ wide": {_TABLE_4.ours: _TABLE_4.quoted["CelebA-HQ wide"][_TABLE_4.ours]}},
    rows={},
    notes=(_PICTURE + ": T = 4",),
)

TABLES = {t.name: t for t in (_TABLE_1, _TABLE_2, _TABLE_3, _TABLE_4, _TABLE_5, _TABLE_6, _FIG_1, _FIG_6)}


def paper_table(name: str) -> Table:
    """Return the table or figure of that name; ConfigError lists the names there are."""
    if name not in TABLES:
        raise ConfigError(f"no table {name!r}; there are: {', '.join(TABLES)}, claims")
    return TABLES[name]


def printed_costs(name: str) -> dict[str, dict[str, str]]:
    """Return what a table prints beside scores: parameters, Mult-Adds, switches; figures print none."""
    cells = printed(name).cells.get("", {}) if name.startswith("table") else {}
    return {m: {k: q.text for k, q in row.items()} for m, row in cells.items()}


def quoted_costs(name: str) -> list[str]:
    """Return printed costs and switches as lines for a terminal."""
    costs = printed_costs(name)
    rows = [f"  {m:34} {'  '.join(f'{k} {v}' for k, v in row.items())}  (quoted)" for m, row in costs.items()]
    return ["costs and switches", *rows] if rows else []


def quoted_line(method: str, row: Mapping[str, Quote], beside: str = "") -> str:
    """Return a printed row as a line for a terminal, digits and marks as printed."""
    figures = "  ".join(f"{title(k)} {q.marked}" for k, q in row.items())
    return f"  {method:34} {figures}{beside}  (quoted)"


def quoted_table(table: Table) -> list[str]:
    """Return all that a table prints, as lines for a terminal."""
    lines = [f"{table.name} of the paper: * best, · second best", *quoted_costs(table.name)]
    for case in table.cases:
        rows = table.quoted[case.name]
        lines += [case.name, *(quoted_line(method, row) for method, row in rows.items())]
    return lines


def with_cells(table: Table, path: Path) -> Table:
    """Return a table with further quoted cells from a JSON file.

    The file is `{case: {method: {metric: figure}}}`, or that for each table: `{"table3": {case: …}}`. A
    figure is a number or its digits as text; null and `-` are cells that the paper leaves empty.

    Raises:
        DataError: if the file is not of that form, names a case or metric that is not there, or contradicts a
            cell that is quoted here.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_float=str, parse_int=str)
        if set(content) <= set(TABLES):
            content = content.get(table.name, {})
        flat = [(case, method, metric, cell) for case, method, metric, cell in _flat(content)]
    except (OSError, ValueError, AttributeError, TypeError):
        raise DataError(f"{path} cannot be read; expected {{case: {{method: {{metric: figure}}}}}}") from None
    quoted = {c: {m: dict(row) for m, row in rows.items()} for c, rows in table.quoted.items()}
    for case, method, metric, cell in flat:
        if case not in {c.name for c in table.cases}:
            raise DataError(
                f"{path} names {case!r}; {table.name} has {', '.join(c.name for c in table.cases)}"
            )
        if metric not in METRICS:
            near = difflib.get_close_matches(metric, METRICS, n=1, cutoff=0.0)[0]
            raise DataError(f"{path} names the metric {metric!r}; the nearest is {near!r}")
        if cell is None:
            continue
        known = quoted.setdefault(case, {}).setdefault(method, {}).setdefault(metric, cell)
        if known.value != cell.value:
            raise DataError(f"{path} has {cell.text} for {method} on {case}; the paper prints {known.text}")
    return replace(table, quoted=quoted)


def _flat(content: Any) -> Iterator[tuple[str, str, str, Quote | None]]:
    for case, rows in content.items():
        for method, row in rows.items():
            for metric, figure in row.items():
                if figure is not None and not isinstance(figure, str):
                    raise TypeError(figure)
                yield case, method, metric, None if figure is None else read_quote(figure)
