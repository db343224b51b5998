"""What the paper claims in numbers, computed again from its printed cells and from counted networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from dirformer.evaluation.cost import cost
from dirformer.evaluation.quotes import printed

OURS = "DiffIR_S2 (Ours)"
Compute = Callable[[], float]


@dataclass(frozen=True)
class Claim:
    """A sentence with a number or an order, and how it comes about."""

    where: str
    """The table or figure that it is about."""
    says: str
    figure: str
    """The number as the text prints it; empty where the text claims an order alone: ours is below."""
    unit: str
    compute: Compute | None
    """None where the other number stands in a picture alone."""
    basis: str
    """From which cells or counts."""
    differs: str = ""
    """Why text and table disagree, where they do."""


def _cell(table: int, case: str, method: str, metric: str) -> float:
    return printed(f"table{table}").cells[case][method][metric].value


def _gap(table: int, case: str, other: str, metric: str, ours: str = OURS) -> Compute:
    """Ours minus theirs."""
    return lambda: _cell(table, case, ours, metric) - _cell(table, case, other, metric)


def _below(table: int, case: str, other: str, metric: str, ours: str = OURS) -> Compute:
    """Theirs minus ours."""
    return lambda: _cell(table, case, other, metric) - _cell(table, case, ours, metric)


def _share(table: int, other: str, column: str) -> Compute:
    return lambda: 100 * _cell(table, "", OURS, column) / _cell(table, "", other, column)


def _of_restormer() -> float:
    return 100 * float(cost("deblurring", measure=False, execute=False)["of_restormer"])


def _of_rrdbnet() -> float:
    return float(100 * cost("sr-x4", measure=False, execute=False)["of_rrdbnet"])


_WIDE, _V1, _V3 = "CelebA-HQ wide", "DiffIR_S2-V1", "DiffIR_S2-V3 (Ours)"
_L1, _M, _T = "L_diff (Eq. 13)", "parameters (M)", "Mult-Adds (T)"
_COUNTED = "both networks counted by `cost`"
_ROWS: tuple[tuple[str, str, str, str, Compute | None, str], ...] = (
    ("Table 1", "FID below LaMa's, Places wide", "0.2706", "", _below(1, "Places wide", "LaMa", "fid"), ""),
    ("Table 1", "FID below LaMa's, CelebA-HQ wide", "0.5583", "", _below(1, _WIDE, "LaMa", "fid"), ""),
    ("Table 1", "parameters, of RePaint's", "4.3", "%", _share(1, "RePaint", _M), "26/607"),
    ("Table 1", "parameters (M) like LaMa's", "", "", _gap(1, "", "LaMa", _M), "26 − 27"),
    ("Fig. 1", "Mult-Adds, of RePaint's: 1000 times less", "0.1", "%", None, "theirs is in a picture alone"),
    (
        "Table 2",
        "LPIPS below BebyGAN's, General100",
        "0.0121",
        "",
        _below(2, "General100", "BebyGAN", "lpips_alex"),
        "",
    ),
    (
        "Table 2",
        "LPIPS below BebyGAN's, Urban100",
        "0.0175",
        "",
        _below(2, "Urban100", "BebyGAN", "lpips_alex"),
        "",
    ),
    ("Fig. 1", "Mult-Adds, of BebyGAN's", "63", "%", _of_rrdbnet, _COUNTED),
    ("Table 3", "PSNR above IPT's, GoPro", "0.68", "dB", _gap(3, "GoPro", "IPT", "psnr"), ""),
    ("Table 3", "PSNR above MIMO-Unet+'s, GoPro", "0.54", "dB", _gap(3, "GoPro", "MIMO-Unet+", "psnr"), ""),
    ("Table 3", "PSNR above Restormer's, GoPro", "0.28", "dB", _gap(3, "GoPro", "Restormer", "psnr"), ""),
    ("Table 3", "PSNR above Restormer's, HIDE", "0.33", "dB", _gap(3, "HIDE", "Restormer", "psnr"), ""),
    ("Fig. 1", "Mult-Adds, of Restormer's", "78", "%", _of_restormer, _COUNTED),
    ("Table 6", "Mult-Adds, of Real-ESRGAN's", "63", "%", _share(6, "Real-ESRGAN", _T), "0.74/1.18"),
    ("Table 6", "Mult-Adds, of LDM's", "2", "%", _share(6, "LDM", _T), "0.74/37.25"),
    ("Table 4", "FID of V3 (joint) below V1 (no diffusion)", "", "", _gap(4, _WIDE, _V1, "fid", _V3), ""),
    ("Table 4", "FID of V1 below V2 (traditional)", "", "", _gap(4, _WIDE, "DiffIR_S2-V2", "fid", _V1), ""),
    (
        "Table 4",
        "FID of V3 below V4 (noise inserted)",
        "",
        "",
        _gap(4, _WIDE, "DiffIR_S2-V4", "fid", _V3),
        "",
    ),
    ("Table 5", "FID under L_diff below L_2", "", "", _gap(5, _WIDE, "L_2 (Eq. 14)", "fid", _L1), ""),
    ("Table 5", "FID under L_diff below L_kl", "", "", _gap(5, _WIDE, "L_kl (Eq. 15)", "fid", _L1), ""),
    ("Fig. 6", "better up to T = 3, stable from 4", "", "", None, "the points are in a picture alone"),
)
_DIFFERS = {"PSNR above MIMO-Unet+'s, GoPro": "0.54 dB is the distance to MPRNet"}
CLAIMS = tuple(
    Claim(where, says, figure, unit, compute, basis or f"cells of {where}", _DIFFERS.get(says, ""))
    for where, says, figure, unit, compute, basis in _ROWS
)
"""The paper's claims in numbers."""


def check_claims() -> dict[str, Any]:
    """Compute every claim again.

    Returns:
        `claims`: each with what was found and `holds`: true where the number in the text comes out at its
        digits (or, of an order, where the first is below the second), false where not, null where it cannot
        be computed.
    """
    rows = []
    for claim in CLAIMS:
        found = None if claim.compute is None else claim.compute()
        entry = {k: v for k, v in asdict(claim).items() if k != "compute"}
        rows.append({**entry, "found": found, "holds": _holds(claim, found)})
    return {"schema": 1, "target": "claims", "claims": rows}


def _holds(claim: Claim, found: float | None) -> bool | None:
    if found is None:
        return None
    return found < 0 if not claim.figure else _rounded(found, claim.figure) == claim.figure


def _rounded(found: float, like: str) -> str:
    """Return a number with as many digits behind the point as another one."""
    return f"{found:.{len(like.partition('.')[2])}f}"


def claims_text(result: dict[str, Any]) -> str:
    """Lay the claims out for a terminal."""
    words = {True: "holds", False: "differs", None: "not computable"}
    lines = [
        "the paper's claims in numbers: as the text prints them, and computed from its tables and counts"
    ]
    for row in result["claims"]:
        unit = f" {row['unit']}" if row["unit"] else ""
        found = "" if row["found"] is None else _rounded(row["found"], row["figure"] or "0.0001") + unit
        order = "" if row["found"] is None else "below"
        said = row["figure"] + unit if row["figure"] else order
        why = f"; {row['differs']}" if row["differs"] else ""
        texts = (f"{row['where']:8} {row['says']:42} {said:>8} {found:>8}", words[row["holds"]])
        lines.append(f"{'  '.join(texts)} ({row['basis']}{why})")
    return "\n".join(lines)
