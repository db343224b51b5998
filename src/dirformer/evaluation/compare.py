"""The paper's figures: one region, zoomed, method by method (Figs. 3–5, 7–11), and score against cost
(Fig. 1) or against T (Fig. 6) from result files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.evaluation.cost import cost
from dirformer.evaluation.methods import BASELINES, find_method, weight_file
from dirformer.evaluation.results import read_result
from dirformer.evaluation.samples import Sample, restore_sample
from dirformer.evaluation.tables import number, title
from dirformer.ground.errors import ConfigError, DataError, MissingExtraError, OutputError
from dirformer.ground.paths import atomic_path
from dirformer.metrics.protocols import find_protocol
from dirformer.metrics.scorer import open_scorer, quantise
from dirformer.weights.checkpoints import read_header

Region = tuple[int, int, int, int]
"""x, y, width, height in pixels of the GT."""
SUFFIXES = (".png", ".pdf")


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
    gt: Path,
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

    Args:
        models: see `methods.find_method`.
        lq: degraded photo.
        gt: its clean photo.
        out: `.png` or `.pdf`.
        mask: for inpainting.
        region: in GT pixels; None takes the window where the first model errs most.
        protocol: whose scores are printed.
        seed: of the diffusion's start.
        device: for networks.
        overwrite: replace `out`.

    Returns:
        One line that says what was drawn.

    Raises:
        DataError: if sizes do not match or the region leaves the photo; OutputError if `out` exists.
    """
    _check_out(out, overwrite=overwrite)
    rules = find_protocol(protocol)
    scorer = open_scorer(rules)
    sample = Sample(lq.stem, lq, gt, mask)
    panels: list[tuple[str, Tensor, str]] = []
    for model in models:
        done = restore_sample(find_method(model, device=device), sample, seed)
        result = quantise(done.restored, rules)
        scores = scorer.scores(result, done.gt)
        caption = "  ".join(f"{title(k)} {number(k, v)}" for k, v in scores.items())
        panels.append((Path(model).stem if "/" in model else model, result.float(), caption))
        photo, clean = done.lq, done.gt
    scale = clean.shape[1] // photo.shape[1]
    box = region or hardest_region(panels[0][1], clean)
    x, y, width, height = box
    if x + width > clean.shape[2] or y + height > clean.shape[1]:
        raise DataError(f"region {x},{y},{width},{height} leaves {gt} ({clean.shape[2]}×{clean.shape[1]})")
    large = photo.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    panels = [("LQ", large, ""), *panels, ("GT", clean, "")]
    _draw_panels(panels, clean, box, out)
    return f"{out}: {len(models)} methods, region {x},{y},{width},{height}, protocol {rules.name}"


def hardest_region(result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> Region:
    """Return the window (a quarter of the photo's sides) with the largest mean squared error."""
    height, width = (max(1, n // 4) for n in gt.shape[1:])
    error = (result - gt).square().mean(0, keepdim=True)[None]
    means = F.avg_pool2d(error, (height, width), stride=1)[0, 0]
    y, x = divmod(int(means.argmax()), means.shape[1])
    return x, y, width, height


def _draw_panels(panels: list[tuple[str, Tensor, str]], gt: Tensor, box: Region, out: Path) -> None:
    pyplot = _pyplot()
    x, y, width, height = box
    columns = len(panels) + 1
    with pyplot.rc_context({"font.size": 8, "svg.hashsalt": "dirformer"}):
        figure, axes = pyplot.subplots(1, columns, figsize=(2.2 * columns, 2.6), layout="constrained")
        axes[0].imshow(gt.permute(1, 2, 0).numpy())
        axes[0].add_patch(pyplot.Rectangle((x, y), width, height, fill=False, edgecolor="red", linewidth=1.5))
        axes[0].set_title("photo")
        for axis, (name, photo, caption) in zip(axes[1:], panels, strict=True):
            crop = photo[:, y : y + height, x : x + width]
            axis.imshow(crop.permute(1, 2, 0).numpy().clip(0, 1), interpolation="nearest")
            axis.set_title(name)
            axis.set_xlabel(caption.replace("  ", "\n"))
        for axis in axes:
            axis.set_xticks([])
            axis.set_yticks([])
        _save(figure, out)
        pyplot.close(figure)


def plot_results(
    kind: str, results: list[Path], out: Path, *, metric: str | None = None, overwrite: bool = False
) -> str:
    """Plot a score of result files against Mult-Adds (`cost`, Fig. 1) or against T (`timesteps`, Fig. 6).

    Models without Mult-Adds (interpolations) are drawn at 0 in the first, left out of the second.

    Raises:
        ConfigError: for another kind, or a metric the results do not have; OutputError if `out` exists.
        DataError: if no result is given or nothing can be drawn.
    """
    _check_out(out, overwrite=overwrite)
    if kind not in AXES:
        raise ConfigError(f"no plot {kind!r}; there are: {', '.join(AXES)}")
    if not results:
        raise DataError("a plot needs results; give --results FILE of `evaluate --json`")
    entries = [entry for path in results for entry in read_result(path)["models"]]
    name = metric or next(iter(entries[0]["mean"]))
    points = []
    for entry in entries:
        if name not in entry["mean"]:
            raise ConfigError(f"{entry['model']} has no {name}; it has {', '.join(entry['mean'])}")
        place = model_axis(kind, entry["model"])
        if place is not None and entry["mean"][name] is not None:
            points.append((place, entry["mean"][name], Path(entry["model"]).stem))
    if not points:
        raise DataError(f"nothing to draw: no model of these results has {AXES[kind]}")
    points.sort()
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    axis.plot(*zip(*((x, y) for x, y, _ in points), strict=True), "o-" if kind == "timesteps" else "o")
    for x, y, label in points:
        axis.annotate(label, (x, y), textcoords="offset points", xytext=(5, 5))
    axis.set_xlabel(AXES[kind])
    axis.set_ylabel(title(name))
    axis.grid(alpha=0.3)
    _save(figure, out)
    pyplot.close(figure)
    return f"{out}: {len(points)} points, {name} against {AXES[kind]}"


AXES = {"cost": "Mult-Adds of a 256×256 input (G)", "timesteps": "timesteps T"}


def model_axis(kind: str, model: str) -> float | None:
    """Return where a model stands on the axis; None where the question makes no sense."""
    if model in BASELINES:
        return 0.0 if kind == "cost" else None
    path = weight_file(model)
    if path is None or path.suffix != ".safetensors":
        return None
    if kind == "timesteps":
        return float(read_header(path).config.timesteps)
    return float(cost(str(path), measure=False)["total"]["mult_adds"]) / 1e9


def _check_out(out: Path, *, overwrite: bool) -> None:
    if out.suffix not in SUFFIXES:
        raise OutputError(f"{out} has no known suffix; expected one of {', '.join(SUFFIXES)}")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already; add --overwrite to replace it")


def _save(figure: Any, out: Path) -> None:
    with atomic_path(out) as part:
        figure.savefig(part, format=out.suffix[1:], dpi=200, bbox_inches="tight")


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise MissingExtraError("matplotlib", "eval") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt
