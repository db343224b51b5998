"""Score every shipped model on its test sets and write the cards: python -m release.cards DATA [NAME...]

Writes docs/reports/models/scores.json (per model and set: means, 95 % intervals, paired differences to the first
baseline), docs/reports/models/README.md (all tables), the table of the project's README and a card per model beside its weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from dirformer.evaluation.cost import cost
from dirformer.evaluation.results import finite, interval95
from dirformer.evaluation.run import evaluate
from dirformer.evaluation.tables import group_cells, markdown
from dirformer.experiments.sweeps import as_markdown
from dirformer.metrics.protocols import find_protocol
from dirformer.metrics.table import described
from dirformer.tasks import TASKS
from dirformer.weights.catalog import CATALOG
from dirformer.weights.checkpoints import PACKED_FORMAT, read_header
from dirformer.weights.load import load
from release.places import REPORTS, ROOT, WEIGHTS
from release.testsets import tests
from release.texts import CARDS, DATA_SECTION, LICENCE_SECTION

HIDDEN = {"seconds", "peak_mib"}
MODELS_HEAD = "| model | task | parameters | Mult-Adds | file |\n|---|---|---|---|---|\n"


def score(name: str, data: Path) -> list[dict[str, Any]]:
    """Score a model and its baselines on each of its test sets."""
    results = []
    for test in tests(name, data):
        plain = [CATALOG[name].plain] if CATALOG[name].plain != name else []
        result = evaluate(
            [*test.baselines, *plain, name],
            test.lq,
            test.gt,
            test.protocol,
            metrics=test.metrics,
            masks=test.masks,
            device="cpu",
        )
        if "groups" in result:
            photos = len(result["models"][0]["images"]) // len(result["groups"])
            head = {"set": test.title, "protocol": test.protocol, "photos": photos}
            results.append({**head, "groups": finite(result["groups"])})
            continue
        columns = {m["model"]: m for m in result["models"]}
        first = columns[test.baselines[0]]["images"]
        entry: dict[str, Any] = {
            "set": test.title,
            "protocol": test.protocol,
            "photos": len(first),
            "rows": {},
        }
        for method, column in columns.items():
            row = {
                k: {"mean": v, "interval95": column["interval95"][k]}
                for k, v in column["mean"].items()
                if k not in HIDDEN
            }
            for metric, values in row.items():
                gains = [a[metric] - b[metric] for a, b in zip(column["images"], first, strict=True)]
                values["gain"] = {"mean": sum(gains) / len(gains), "interval95": interval95(gains)}
            entry["rows"][method] = row
        results.append(entry)
        print(table([entry]), flush=True)
    return results


def table(entries: list[dict[str, Any]]) -> str:
    """Return a Markdown table: a row per set and method, a column per metric; gains in brackets."""
    lines = []
    for entry in entries:
        if "groups" in entry:
            lines += [f"**{entry['set']}** ({entry['photos']} photos, protocol `{entry['protocol']}`)", ""]
            lines += [markdown(*group_cells(entry)), ""]
            continue
        metrics = list(next(iter(entry["rows"].values())))
        arrows = [described(m).head for m in metrics]
        lines += [f"**{entry['set']}** ({entry['photos']} photos, protocol `{entry['protocol']}`)", ""]
        lines += ["| | " + " | ".join(arrows) + " |", "|---" * (len(metrics) + 1) + "|"]
        for number, (method, row) in enumerate(entry["rows"].items()):
            cells = [_cell(metric, row[metric], gain=number > 0) for metric in metrics]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(metric: str, values: dict[str, Any], *, gain: bool) -> str:
    digits = described(metric).digits
    low, high = values["interval95"]
    text = f"{values['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    if gain:
        low, high = values["gain"]["interval95"]
        text += f"; {values['gain']['mean']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return text


def figures(name: str) -> tuple[float, float, int, float]:
    """Return a model's parameters (millions), Mult-Adds (G), the side of the input they count for, and its MB."""
    model = load(CATALOG[name].path)
    side = 64 if model.config.scale == 4 else 256
    giga = cost(name, (side, side), measure=False)["total"]["mult_adds"] / 1e9
    return (
        sum(p.numel() for p in model.parameters()) / 1e6,
        giga,
        side,
        CATALOG[name].path.stat().st_size / 1e6,
    )


def card(name: str, entries: list[dict[str, Any]], legs: list[dict[str, Any]]) -> str:
    """Return a model's card."""
    text, (millions, giga, size, megabytes) = CARDS[name], figures(name)
    header = read_header(CATALOG[name].path)
    scores, bits = header.provenance["scores"], "8 bits" if header.version == PACKED_FORMAT else "float16"
    gap = scores.get("oracle_minus_stage2")
    rows = [_leg(leg) for leg in legs if leg["model"] == name]
    parts = [
        f"# {name}",
        (
            f"{text.summary} A stage-2 DiffIR of {millions:.2f} M parameters (CPEN, denoiser, DIRformer) and "
            f"{giga:.2f} G Mult-Adds at a {size}×{size} input (`dirformer cost {name} --size {size}`), {bits}, "
            f"{megabytes:.1f} MB. {text.teacher}"
        ),
        DATA_SECTION,
        text.data,
        LICENCE_SECTION,
        "## Training\n" + text.training,
        "| date | leg, device | steps | judged by | before | after | taken |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(rows),
        "Before, after: on the fixed validation set (`docs/reports/models/validation.json`).",
        (
            "## Scores\nMean and 95 % bootstrap interval over photos; behind the semicolon the gain over the "
            f"first row, photo by photo. `python -m release.cards DATA {name}`."
        ),
        table(entries),
        "" if gap is None else _oracle(gap, text.oracle),
        worth(name),
        "## Limits\n" + text.limits,
        f"![where it gains most](../../../../docs/pictures/{name}-most.jpg)",
        f"![where it gains least](../../../../docs/pictures/{name}-least.jpg)",
        "Input, restored, clean: the squares of three photos that gain most and least (`make pictures`).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def worth(name: str) -> str:
    """Return what the IPR is worth in a model, as worth.py found."""
    path = REPORTS / "worth" / f"{name}.json"
    if not path.is_file():
        return ""
    result = json.loads(path.read_text(encoding="utf-8"))
    return (
        "## What the IPR is worth\nThe estimate by diffusion; by CPEN alone, without diffusion; one learned vector for all "
        f"photos; and stage 1, which sees the clean photo. Each trained for {result['steps']} steps from one stage 1, "
        "with the same samples, on the network of as many parameters as said, which may be an earlier one. "
        f"`python -m release.worth DATA {name}`.\n\n" + as_markdown(result).strip()
    )


def _leg(leg: dict[str, Any]) -> str:
    """Return a leg's row; earlier legs trained stage 1 too."""
    steps = " / ".join(f"{count:,}" for count in leg["steps"].values())
    before = "–" if leg["before"] is None else format(leg["before"], ".3f")
    judged = (
        leg["score"].replace("_", "-").upper()
        if leg["score"].islower() and "_" in leg["score"]
        else leg["score"]
    )
    taken = "yes" if leg["taken"] else "no"
    cells = (leg["date"], leg["note"], steps, judged, before, f"{leg['after']:.3f}", taken)
    return f"| {' | '.join(cells)} |"


def _oracle(gap: dict[str, Any], text: str) -> str:
    low, high = gap["interval95"]
    return (
        "Oracle (stage 1, which sees the clean photo) minus stage 2, validation set: "
        f"{gap['mean']:+.2f} dB [{low:+.2f}, {high:+.2f}]. {text}"
    )


def main(data: str, *names: str) -> None:
    path = REPORTS / "scores.json"
    fresh = {name: score(name, Path(data)) for name in names or CATALOG}
    # Read behind the work: several calls may score models side by side.
    scores = (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}) | fresh
    scores = {name: scores[name] for name in CATALOG if name in scores}
    path.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    write(scores)


def write(scores: dict[str, Any]) -> None:
    """Write cards, tables and the README's, from scores and what the files themselves say."""
    lines = (REPORTS / "legs.jsonl").read_text(encoding="utf-8").splitlines()
    legs = [json.loads(line) for line in lines]
    for name, entries in scores.items():
        (WEIGHTS / f"{name}.md").write_text(card(name, entries, legs), encoding="utf-8")
    (REPORTS / "README.md").write_text(overview(scores), encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, behind = text.partition(MODELS_HEAD)
    text = before + MODELS_HEAD + "\n".join(models(list(scores))) + behind[behind.index("\n\n") :]
    readme.write_text(text, encoding="utf-8")


def models(names: list[str]) -> list[str]:
    """Return the rows of the README's list of models."""
    rows = []
    for name in names:
        millions, giga, side, megabytes = figures(name)
        entry = CATALOG[name]
        task = TASKS[entry.task].title + (f" ×{entry.scale}" if TASKS[entry.task].border else "")
        rows.append(
            f"| [`{name}`](src/dirformer/weights/files/{name}.md) | {task} | {millions:.2f} M "
            f"| {giga:.2f} G at {side}×{side} | {megabytes:.1f} MB |"
        )
    return rows


def overview(scores: dict[str, Any]) -> str:
    used = {entry["protocol"] for entries in scores.values() for entry in entries}
    parts = [
        "# Shipped models",
        (
            "Made by `python -m release.cards DATA`. Each cell: mean [95 % bootstrap interval over photos]; "
            "behind the semicolon the gain over the first row, photo by photo. Protocols:"
        ),
        "\n".join(f"- `{name}`: {find_protocol(name).sentence}" for name in sorted(used)),
    ]
    for name, entries in scores.items():
        parts += [f"## [{name}](../../../src/dirformer/weights/files/{name}.md)", table(entries)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main(*sys.argv[1:])
