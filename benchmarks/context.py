"""Context windows against whole photos: score, CPU time and peak memory of a network on a set of pairs.

    python benchmarks/context.py MODEL --lq DIR --gt DIR --protocol NAME [--masks DIR] [--window PIXELS …]

Scores are those of the protocol that need no weights. Contexts are interleaved photo by photo; time is
process CPU time, memory the most the process held while it restored.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dirformer.evaluation.methods import Method
from dirformer.evaluation.samples import find_samples, restore_sample
from dirformer.inference.restorer import Restorer
from dirformer.metrics.protocols import PROTOCOLS
from dirformer.metrics.scorer import open_scorer, quantise
from dirformer.metrics.table import METRICS


class Timed:
    """A network in one context, as a method that counts its CPU seconds."""

    def __init__(self, model: str, context: str, window: int | None, threads: int) -> None:
        self.restorer = Restorer(model, device="cpu", context=context, window=window)
        self.restorer.engine.threads = threads
        self.name = context if self.restorer.window is None else f"{context} {self.restorer.window}"
        self.seconds = 0.0
        self.method = Method(
            self.name, self.restore, self.restorer.scale, self.restorer.task, self.restorer.device
        )

    def restore(self, lq: Tensor, mask: Tensor | None, scale: int, seed: int) -> Tensor:
        del scale
        start = time.process_time()
        restored = self.restorer.restore(lq, mask, seed)
        self.seconds = time.process_time() - start
        return restored


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per photo: per context its scores, `cpu_s` and `peak_mib`."""
    rules = PROTOCOLS[arguments.protocol]
    scorer = open_scorer(rules)
    scorer.pairwise = {
        name: metric for name, metric in scorer.pairwise.items() if METRICS[name].needs == "nothing"
    }
    windows = arguments.window or [None]
    runs = [Timed(arguments.model, "image", None, arguments.threads)]
    runs += [
        Timed(arguments.model, context, window, arguments.threads)
        for window in windows
        for context in ("window", "window-prior")
    ]
    rows = []
    for sample in find_samples(rules, arguments.lq, arguments.gt, arguments.masks)[: arguments.photos]:
        row: dict[str, Any] = {"name": sample.name}
        for run in runs:
            result = restore_sample(run.method, sample, arguments.seed)
            scores = scorer.scores(quantise(result.restored, rules), result.gt)
            row[run.name] = {**scores, "cpu_s": run.seconds, "peak_mib": result.peak_mib}
        rows.append(row)
        if arguments.verbose:
            print(f"  {row}", flush=True)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    contexts = [key for key in rows[0] if key != "name"]
    metrics = [key for key in rows[0]["image"] if key not in {"cpu_s", "peak_mib"}]
    first = metrics[0]
    print(
        f"{'context':18}" + "".join(f"{m:>12}" for m in metrics) + "   (gain, better on)     CPU s       MiB"
    )
    for context in contexts:
        values = [row[context] for row in rows]
        gains = [row[context][first] - row["image"][first] for row in rows]
        ratio = sum(v["cpu_s"] for v in values) / sum(row["image"]["cpu_s"] for row in rows)
        print(
            f"{context:18}"
            + "".join(f"{statistics.fmean(v[m] for v in values):12.4f}" for m in metrics)
            + f"   {statistics.fmean(gains):+.4f}, {sum(g > 0 for g in gains):3}/{len(rows)}"
            + f"  {sum(v['cpu_s'] for v in values):9.2f} ×{ratio:.2f}"
            + f"  {max(v['peak_mib'] for v in values):5.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a shipped model's name or a weight file")
    parser.add_argument("--lq", type=Path, required=True)
    parser.add_argument("--gt", type=Path, required=True)
    parser.add_argument("--protocol", choices=PROTOCOLS, required=True)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--window", type=int, action="append", help="pixels; default: the training patch")
    parser.add_argument("--photos", type=int, help="only the first so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="a line per photo")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = measure(arguments)
    print(f"{arguments.model}, {len(rows)} photos of {arguments.lq}")
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps({"schema": 1, "model": arguments.model, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
