"""One self-contained page from results: tables, sliders LQ | HQ | GT, error maps, settings and hashes.

Everything is inside the file: no script, font or picture is fetched. Photos are shown where the evaluation
kept them (`--save`), the worst ones first.
"""

from __future__ import annotations

import base64
import html
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dirformer import __version__
from dirformer.evaluation.paper import TABLES, printed_costs
from dirformer.evaluation.results import read_result, safe_name
from dirformer.evaluation.samples import pair_samples
from dirformer.evaluation.tables import columns, number, table, title
from dirformer.ground.errors import OutputError, PhotoError
from dirformer.ground.paths import atomic_path
from dirformer.ground.photo import decode_rgb
from dirformer.ground.places import Place
from dirformer.metrics.table import described


def write_report(results: list[Path], out: Path, *, photos: int = 12, overwrite: bool = False) -> str:
    """Write a page from result files of `evaluate --json`.

    Args:
        results: result files, each a section.
        out: page to write.
        photos: how many photos to show per result, the worst of its first model first.
        overwrite: replace `out`.

    Returns:
        One line that says what was written.

    Raises:
        DataError: if a file is no result.
        OutputError: if `out` exists.
    """
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already; add --overwrite to replace it")
    sections = [_section(read_result(path), path.name, photos) for path in results]
    page = _PAGE.format(body="\n".join(sections), version=__version__)
    with atomic_path(out) as part:
        part.write_text(page, encoding="utf-8")
    return f"{out}: {len(results)} results, {page.count('class=compare')} photos, {len(page) / 1e6:.1f} MB"


def _section(result: dict[str, Any], name: str, photos: int) -> str:
    parts = [f"<h2>{html.escape(name)}: protocol <code>{html.escape(result['protocol'])}</code></h2>"]
    settings = result.get("settings", {})
    parts.append(f"<p>{html.escape(settings.get('definition', ''))}.</p>")
    parts.append(_table(result))
    parts += [f"<p class=note>{html.escape(line)}</p>" for line in result.get("missing", [])]
    parts.append(_quoted(result["protocol"]))
    parts.append(_photos(result, photos))
    rows = "".join(
        f"<tr><th>{html.escape(str(key))}</th><td>{html.escape(str(value))}</td></tr>"
        for key, value in (
            *settings.items(),
            *((f"SHA-256 of {e['model']}", e.get("sha256", "")) for e in result["models"]),
        )
    )
    parts.append(f"<details><summary>Settings and hashes</summary><table>{rows}</table></details>")
    return "<section>" + "\n".join(parts) + "</section>"


def _table(result: dict[str, Any]) -> str:
    head, rows = table(result)
    metrics = columns(result)
    lines = ["<table class=scores><tr>" + "".join(f"<th>{html.escape(t)}</th>" for t in head) + "</tr>"]
    for row, entry in zip(rows, result["models"], strict=True):
        cells = [f"<th>{html.escape(row[0][0])}</th>"]
        for (text, rank), metric in zip(row[1:], metrics, strict=True):
            low_high = entry["interval95"].get(metric)
            extent = (
                "" if not low_high else f" title='95 %: {' … '.join(number(metric, v) for v in low_high)}'"
            )
            cells.append(f"<td{extent} class=rank{rank}>{text}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    key = (
        "best <b class=rank1>red</b>, second best <b class=rank2>blue</b>; 95 % intervals behind the numbers"
    )
    return "\n".join(lines) + f"</table><p class=note>{key}</p>"


def _quoted(protocol_name: str) -> str:
    lines = []
    for paper in TABLES.values():
        if paper.name.startswith("fig"):
            continue
        for case in paper.cases:
            if case.protocol != protocol_name:
                continue
            where = f"quoted ({paper.name} of the paper)"
            for method, cells in paper.quoted.get(case.name, {}).items():
                figures = ", ".join(
                    f"{html.escape(title(metric))} <span class=rank{quote.rank}>{quote.text}</span>"
                    for metric, quote in cells.items()
                )
                row = f"<td>{html.escape(case.name)}</td><td>{figures}</td><td>{where}</td>"
                lines.append(f"<tr><th>{html.escape(method)}</th>{row}</tr>")
        if paper.cases[0].protocol == protocol_name:
            for method, costs in printed_costs(paper.name).items():
                figures = ", ".join(f"{html.escape(name)} {value}" for name, value in costs.items())
                row = f"<td>costs and switches</td><td>{figures}</td><td>{where}</td>"
                lines.append(f"<tr><th>{html.escape(method)}</th>{row}</tr>")
    if not lines:
        return ""
    return (
        "<details><summary>The paper's rows, quoted (of other photos)</summary><table>"
        + "".join(lines)
        + "</table></details>"
    )


def _photos(result: dict[str, Any], limit: int) -> str:
    settings = result.get("settings", {})
    if not settings.get("save"):
        return "<p class=note>No photos were kept; <code>evaluate … --save DIR</code> keeps them.</p>"
    masks = settings.get("masks")
    lq, gt, save = (Place.of(settings[name]) for name in ("lq", "gt", "save"))
    samples = {sample[0]: sample for sample in pair_samples(lq, gt, Place.of(masks) if masks else None)}
    blocks = []
    for row in worst_first(result)[:limit]:
        sample = samples.get(row["name"])
        if sample is None:
            continue
        before, clean = _read(sample[1]), _read(sample[2])
        panels = []
        for entry in result["models"]:
            place = save.below(safe_name(entry["model"])).below(f"{row['name']}.png")
            if place.entry() is None:
                raise PhotoError(f"{place} is not there; evaluate again with --save {settings['save']}")
            scores = next(r for r in entry["images"] if r["name"] == row["name"])
            panels.append(_panel(entry["model"], scores, before, _read(place), clean))
        blocks.append(f"<h3>{html.escape(row['name'])}</h3><div class=row>{''.join(panels)}</div>")
    return "\n".join(blocks)


def _read(place: Place) -> Float[Tensor, "3 h w"]:
    return decode_rgb(place.read(), str(place)).float() / 255


def worst_first(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the first model, worst by its first metric first."""
    entry = result["models"][0]
    metric = next((m for m in columns(result) if m in entry["images"][0]), "seconds")
    sign = -1 if described(metric).lower else 1

    def badness(row: dict[str, Any]) -> float:
        return -math.inf if math.isnan(row[metric]) else sign * row[metric]

    return sorted(entry["images"], key=badness)


def _panel(model: str, scores: dict[str, Any], lq: Tensor, hq: Tensor, gt: Tensor) -> str:
    gt = gt[:, : hq.shape[1], : hq.shape[2]]
    shown = {k: v for k, v in scores.items() if isinstance(v, int | float)}
    caption = "  ".join(f"{title(k)} {number(k, v)}" for k, v in shown.items())
    height, width = hq.shape[1:]
    frame = f"--a:33%;--b:66%;aspect-ratio:{width}/{height}"
    return (
        f"<figure style='--w:{width}px'><div class=compare style='{frame}'>"
        f"<img class=gt alt='GT' src='{data_uri(gt)}'>"
        f"<img class=hq alt='HQ' src='{data_uri(hq)}'>"
        f"<img class=lq alt='LQ' src='{data_uri(lq)}'>"
        "<span class=tag style='left:0'>LQ</span><span class=tag style='left:45%'>HQ</span>"
        "<span class=tag style='right:0'>GT</span></div>"
        "<input type=range min=0 max=100 value=33 data-edge=a aria-label='edge between LQ and HQ'>"
        "<input type=range min=0 max=100 value=66 data-edge=b aria-label='edge between HQ and GT'>"
        "<details><summary>error map</summary>"
        f"<img alt='error' src='{data_uri(error_map(hq, gt))}'></details>"
        f"<figcaption><b>{html.escape(model)}</b> {html.escape(caption)}</figcaption></figure>"
    )


def error_map(result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Return the mean absolute error over channels as colour: black 0, red, yellow, white at 1/4 and more."""
    error = ((result - gt).abs().mean(0) * 4).clamp(0, 1)
    return torch.stack([(error * 3 - shift).clamp(0, 1) for shift in (0, 1, 2)])


def data_uri(photo: Float[Tensor, "3 h w"]) -> str:
    """Return a photo as a lossless `data:` address."""
    values = np.ascontiguousarray((photo * 255).round().byte().permute(1, 2, 0).numpy())
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


_PAGE = """<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>
<title>dirformer report</title>
<link rel=icon href='data:,'>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; }} th, td {{ padding: .2rem .8rem; text-align: left; }}
.scores td {{ text-align: right; font-variant-numeric: tabular-nums; }}
tr {{ border-bottom: 1px solid #8884; }} .note {{ color: #777; font-size: 90%; }}
.rank1 {{ color: #d22; font-weight: bold; }} .rank2 {{ color: #26d; text-decoration: underline; }}
.row {{ display: flex; flex-wrap: wrap; gap: 1rem; }} figure {{ margin: 0; flex: 1 1 20rem; }}
.compare {{ position: relative; width: 100%; overflow: hidden; }}
.compare img {{ position: absolute; inset: 0; width: 100%; height: 100%; }}
.compare .lq {{ image-rendering: pixelated; clip-path: inset(0 calc(100% - var(--a)) 0 0); }}
.compare .hq {{ clip-path: inset(0 calc(100% - max(var(--a), var(--b))) 0 var(--a)); }}
.tag {{ position: absolute; bottom: 0; background: #000a; color: #fff; padding: 0 .4rem; font-size: 80%; }}
.compare, input[type=range] {{ max-width: var(--w); }}
input[type=range] {{ width: 100%; margin: 0; display: block; }} details img {{ max-width: 100%; }}
</style></head><body>
<h1>dirformer report</h1>
{body}
<p class=note>Written by dirformer {version}. This page asks for nothing from outside.</p>
<script>
for (const input of document.querySelectorAll('input[data-edge]')) {{
  input.addEventListener('input', () => {{
    const box = input.closest('figure').querySelector('.compare');
    box.style.setProperty('--' + input.dataset.edge, input.value + '%');
  }});
}}
</script></body></html>
"""
