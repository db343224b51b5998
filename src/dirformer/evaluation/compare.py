"""The paper's figures of photos: one region, zoomed, method by method (Figs. 3–5, 7–11)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.evaluation.methods import find_method, shown_name
from dirformer.evaluation.paper import paper_table
from dirformer.evaluation.plots import check_out, pyplot, save_figure
from dirformer.evaluation.samples import Sample, restore_alone, restore_sample
from dirformer.evaluation.tables import number, title
from dirformer.ground.errors import ConfigError, DataError
from dirformer.ground.mask import read_mask_for
from dirformer.ground.photo import read_rgb
from dirformer.metrics.protocols import find_protocol
from dirformer.metrics.scorer import as_float, open_scorer, quantise

Region = tuple[int, int, int, int]
"""x, y, width, height in pixels of the GT."""


@dataclass(frozen=True)
class Figure:
    """A figure of the paper: what stands in it."""

    table: str
    """Whose methods and protocol it has."""
    title: str
    methods: tuple[str, ...] = ()
    """Columns between LQ and ours where the paper's caption names them."""
    has_gt: bool = True


FIGURES = {
    "fig3": Figure("table1", "inpainting"),
    "fig4": Figure("table2", "super-resolution ×4"),
    "fig5": Figure("table3", "motion deblurring"),
    "fig7": Figure("table6", "real-world photos of NTIRE2020 Track 2, without GT", has_gt=False),
    "fig8": Figure("table1", "inpainting", ("ICT", "LaMa", "RePaint")),
    "fig9": Figure("table2", "super-resolution ×4"),
    "fig10": Figure("table2", "super-resolution ×4"),
    "fig11": Figure("table3", "motion deblurring"),
}
"""The paper's visual comparisons, by name."""


def find_figure(name: str) -> Figure:
    """Return the figure of that name; ConfigError lists the names there are."""
    if name not in FIGURES:
        raise ConfigError(f"no figure {name!r}; there are: {', '.join(FIGURES)} (fig1 and fig6: reproduce)")
    return FIGURES[name]


def in_order(name: str, models: list[str]) -> list[str]:
    """Return models in the order of a figure's columns; finished results are known by their NAME, ours come
    last.

    Raises:
        ConfigError: for finished results of a method that the paper's table does not have.
    """
    figure = find_figure(name)
    table = paper_table(figure.table)
    printed = list(dict.fromkeys(m for rows in table.quoted.values() for m in rows if m != table.ours))
    order = [*figure.methods, *(m for m in printed if m not in figure.methods)]
    for model in models:
        if model.startswith("results:") and shown_name(model) not in order:
            raise ConfigError(f"{name} has no method {shown_name(model)!r}; there are: {', '.join(order)}")
    places = {model: order.index(shown_name(model)) for model in models if shown_name(model) in order}
    return sorted(models, key=lambda model: places.get(model, len(order)))


def parse_region(text: str) -> Region:
    """Return the region of `X,Y,WIDTH,HEIGHT`; ConfigError for anything else."""
    numbers = text.split(",")
    if len(numbers) != 4 or not all(n.strip().isdecimal() for n in numbers) or min(map(int, numbers[2:])) < 1:
        raise ConfigError(f"region is {text!r}; expected X,Y,WIDTH,HEIGHT in pixels, such as 100,40,64,64")
    x, y, width, height = map(int, numbers)
    return x, y, width, height


def compare_photos(
    models: list[str],
    lq: Path,
    gt: Path | None,
    out: Path,
    *,
    mask: Path | None = None,
    region: Region | None = None,
    protocol: str = "sr",
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Draw one region of one photo as LQ, every model and GT, scores of the whole photo under each.

    Without a GT there are no scores, and every model enlarges by the same factor.

    Args:
        models: see `methods.find_method`.
        lq: degraded photo.
        gt: its clean photo; None where there is none.
        out: `.png` or `.pdf`.
        mask: for inpainting.
        region: in GT pixels; None takes the window where the first model errs most
            (without a GT, the middle).
        protocol: whose scores are printed.
        seed: of the diffusion's start.
        device: for networks.
        overwrite: replace `out`.

    Returns:
        One line that says what was drawn.

    Raises:
        DataError: if sizes do not match or the region leaves the photo; OutputError if `out` exists.
    """
    check_out(out, overwrite=overwrite)
    if gt is None:
        photo, panels = _without_gt(models, lq, mask, seed, device)
        clean = panels[0][1]
    else:
        photo, clean, panels = _with_gt(models, Sample(lq.stem, lq, gt, mask), protocol, seed, device)
    scale = clean.shape[1] // photo.shape[1]
    box = region or (_middle(clean) if gt is None else hardest_region(panels[0][1], clean))
    x, y, width, height = box
    if x + width > clean.shape[2] or y + height > clean.shape[1]:
        size = f"{clean.shape[2]}×{clean.shape[1]}"
        raise DataError(f"region {x},{y},{width},{height} leaves {gt or 'the results'} ({size})")
    large = photo.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    ends = [] if gt is None else [("GT", clean, "")]
    _draw_panels([("LQ", large, ""), *panels, *ends], large if gt is None else clean, box, out)
    return f"{out}: {len(models)} methods, region {x},{y},{width},{height}, protocol {protocol}"


Panel = tuple[str, Tensor, str]
"""Name, photo `3 H W`, caption."""


def _with_gt(
    models: list[str], sample: Sample, protocol: str, seed: int, device: str
) -> tuple[Tensor, Tensor, list[Panel]]:
    """Return LQ, GT and a panel for each model, with its scores."""
    rules = find_protocol(protocol)
    scorer = open_scorer(rules)
    panels: list[Panel] = []
    for model in models:
        done = restore_sample(find_method(model, device=device), sample, seed)
        result = quantise(done.restored, rules)
        scores = scorer.scores(result, done.gt)
        caption = "  ".join(f"{title(k)} {number(k, v)}" for k, v in scores.items())
        panels.append((_short(model), result.float(), caption))
        photo, clean = done.lq, done.gt
    return photo, clean, panels


def _without_gt(
    models: list[str], lq: Path, mask: Path | None, seed: int, device: str
) -> tuple[Tensor, list[Panel]]:
    """Return LQ and a panel for each model; all results have one size."""
    photo = as_float(read_rgb(lq))
    hole = None if mask is None else read_mask_for(lq, mask, (photo.shape[1], photo.shape[2]))
    seen = photo if hole is None else photo * (1 - hole)
    methods = [find_method(model, device=device) for model in models]
    scale = next((method.scale for method in methods if method.scale is not None), 1)
    panels: list[Panel] = []
    for model, method in zip(models, methods, strict=True):
        result = restore_alone(method, lq.stem, seen, hole, scale, seed)
        if hole is not None:
            result = hole * result + (1 - hole) * photo
        if panels and result.shape != panels[0][1].shape:
            sizes = [f"{t.shape[2]}×{t.shape[1]}" for t in (result, panels[0][1])]
            raise DataError(
                f"{shown_name(model)} gives {sizes[0]}, {panels[0][0]} {sizes[1]}; expected one size"
            )
        panels.append((_short(model), result, ""))
    return photo, panels


def _short(model: str) -> str:
    name = shown_name(model)
    return Path(name).stem if "/" in name else name


def _middle(photo: Tensor) -> Region:
    height, width = (max(1, n // 4) for n in photo.shape[1:])
    return (photo.shape[2] - width) // 2, (photo.shape[1] - height) // 2, width, height


def hardest_region(result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> Region:
    """Return the window (a quarter of the photo's sides) with the largest mean squared error."""
    height, width = (max(1, n // 4) for n in gt.shape[1:])
    error = (result - gt).square().mean(0, keepdim=True)[None]
    means = F.avg_pool2d(error, (height, width), stride=1)[0, 0]
    y, x = divmod(int(means.argmax()), means.shape[1])
    return x, y, width, height


def _draw_panels(panels: list[Panel], gt: Tensor, box: Region, out: Path) -> None:
    plots = pyplot()
    x, y, width, height = box
    columns = len(panels) + 1
    with plots.rc_context({"font.size": 8, "svg.hashsalt": "dirformer"}):
        figure, axes = plots.subplots(1, columns, figsize=(2.2 * columns, 2.6), layout="constrained")
        axes[0].imshow(gt.permute(1, 2, 0).numpy())
        axes[0].add_patch(plots.Rectangle((x, y), width, height, fill=False, edgecolor="red", linewidth=1.5))
        axes[0].set_title("photo")
        for axis, (name, photo, caption) in zip(axes[1:], panels, strict=True):
            crop = photo[:, y : y + height, x : x + width]
            axis.imshow(crop.permute(1, 2, 0).numpy().clip(0, 1), interpolation="nearest")
            axis.set_title(name)
            axis.set_xlabel(caption.replace("  ", "\n"))
        for axis in axes:
            axis.set_xticks([])
            axis.set_yticks([])
        save_figure(figure, out)
        plots.close(figure)
