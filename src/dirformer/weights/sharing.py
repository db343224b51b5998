"""Networks as others share them: a folder, or a repository on the Hugging Face Hub, with a model card.

A folder holds `model.safetensors` (one of our weight files), `config.json` (its header, for people and tools)
and `README.md` (the card). Only the first is read again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from dirformer.ground import checks
from dirformer.ground.errors import OutputError
from dirformer.ground.paths import atomic_path
from dirformer.networks.diffir import DiffIR, DiffIRS1, DiffIRS2
from dirformer.tasks import TASKS
from dirformer.weights import checkpoints, hub
from dirformer.weights.catalog import CATALOG, find_weights
from dirformer.weights.checkpoints import Header, Inference
from dirformer.weights.load import PICKLES, open_weights

PAPER = "https://arxiv.org/abs/2303.09472"
_METRICS = {"psnr": "psnr", "ssim": "ssim", "lpips": "lpips", "fid": "fid"}


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    offline: bool = False,
) -> DiffIR:
    """Load a network from a folder or from the Hugging Face Hub, on the CPU, in float32, ready for inference.

    Args:
        name: a folder that `save_pretrained` wrote, `owner/name`, or anything that `load` takes.
        revision: branch, tag or commit on the hub.
        cache_dir: where the hub's files are kept; None: its own cache.
        token: for private repositories.
        offline: open no connection; what is on disk or in the cache must do.

    Raises:
        CheckpointError: if it is not there, cannot be had, or is no network of ours. Safetensors only: a
            pickle on the hub is not loaded.
        MissingExtraError: if it can only be on the hub, and the extra `hub` is not installed.
    """
    checks.path("name", name)
    for what, given in (("revision", revision), ("token", token)):
        if given is not None:
            checks.text(what, given)
    text = str(name)
    if not Path(name).exists() and isinstance(name, str) and name not in CATALOG and hub.is_hub_name(text):
        path = hub.fetch(text, revision=revision, cache_dir=cache_dir, token=token, offline=offline)
    else:
        path = find_weights(name)
    return open_weights(path).model


def save_pretrained(
    model: DiffIR | str | Path,
    folder: str | Path,
    *,
    name: str | None = None,
    licence: str | None = None,
    provenance: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a network as a folder that `from_pretrained`, `load`, `Restorer` and `--model` take.

    Args:
        model: a network, or what `load` takes: then its file is copied byte for byte.
        folder: where to; made if need be.
        name: what the card calls it, `owner/name` or `name`; None: the folder's name.
        licence: of the weights, such as `apache-2.0`; None: what the weight file says.
        provenance: where the weights come from, for a network in memory; see `checkpoints.save`.
        overwrite: replace what is there.

    Returns:
        The folder.

    Raises:
        CheckpointError: if a file is no network of ours.
        OutputError: if files are there already, or cannot be written.
    """
    place = checks.path("folder", folder)
    if not isinstance(model, DiffIRS1 | DiffIRS2):
        checks.path("model", model)
    for what, text in (("name", name), ("licence", licence)):
        if text is not None:
            checks.text(what, text)
    overwrite = checks.flag("overwrite", overwrite)
    _require_json("provenance", {} if provenance is None else provenance)
    paths = {part: place / part for part in ("README.md", "config.json", hub.FILE)}
    for path in paths.values():
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already; say overwrite=True to replace it")
    body = None
    with atomic_path(paths[hub.FILE]) as part:
        if isinstance(model, str | Path):
            source = find_weights(model)
            weights = open_weights(source)
            network, header = weights.model, weights.header
            if source.suffix in PICKLES:
                checkpoints.save(part, network, {"source": source.name}, header.inference)
            else:
                copyfile(source, part)
            if str(model) in CATALOG:
                body = _without_local_links(source.with_suffix(".md").read_text(encoding="utf-8"))
        else:
            network = model
            header = Header(model.stage, model.config, Inference(), provenance or {})
            checkpoints.save(part, model, provenance)
        card = model_card(name or place.resolve().name, header, network, licence=licence, body=body)
        for path, text in ((paths["config.json"], _config(header)), (paths["README.md"], card)):
            with atomic_path(path) as other:
                other.write_text(text, encoding="utf-8")
    return place


def push_to_hub(
    model: DiffIR | str | Path,
    repository: str,
    *,
    private: bool = False,
    licence: str | None = None,
    provenance: dict[str, Any] | None = None,
    token: str | None = None,
    message: str = "Upload a dirformer network",
) -> str:
    """Upload a network to the Hugging Face Hub, with its card, in one commit.

    Args:
        model: as for `save_pretrained`.
        repository: `owner/name`; made if it is not there.
        private: whether a new repository is private.
        licence: of the weights; None: what the weight file says.
        provenance: where the weights come from, for a network in memory.
        token: with the right to write; None: the one that `hf auth login` stored.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        CheckpointError: if a file is no network of ours.
        OutputError: if the hub refuses, or cannot be reached.
        MissingExtraError: if the extra `hub` is not installed.
    """
    hub.require_hub(checks.text("repository", repository))
    with TemporaryDirectory(prefix="dirformer-") as folder:
        save_pretrained(
            model, folder, name=repository, licence=licence, provenance=provenance, overwrite=True
        )
        return hub.push(Path(folder), repository, private=private, token=token, message=message)


def _require_json(name: str, value: object) -> None:
    """Raise ConfigError unless a value is a dictionary that can be written as JSON."""
    try:
        json.dumps(checks.instance(name, value, dict))
    except (TypeError, ValueError, RecursionError):
        raise checks.refused(name, value, "JSON values: text, numbers, lists and dictionaries") from None


def _config(header: Header) -> str:
    known = {"context": header.inference.context, "patch": header.inference.patch}
    values = {"library_name": "dirformer", "stage": header.stage, "inference": known}
    return json.dumps(values | {"config": header.config.to_dict()}, indent=2) + "\n"


def _without_local_links(text: str) -> str:
    """Leave the words of links to files that lie beside the package only, and drop such pictures."""
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)", "", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


# The card ---------------------------------------------------------------------------------------------


def model_card(
    name: str, header: Header, model: DiffIR, *, licence: str | None = None, body: str | None = None
) -> str:
    """Return a model card: metadata as the hub reads it, then what a person wants to know.

    Args:
        name: of the model, with or without its owner.
        header: of its weight file; its provenance gives licence, recipe and scores.
        model: the network, for its size.
        licence: of the weights; None: what the header says, else `unknown`.
        body: a card that is there already, to be used instead of one made from the header.
    """
    provenance, config = header.provenance, header.config
    address, name = (name if "/" in name else f"OWNER/{name}"), name.rpartition("/")[2]
    scores = _scores(provenance)
    terms = str(licence or provenance.get("licence") or "unknown").lower()
    fields: dict[str, Any] = {
        "license": terms,
        "library_name": "dirformer",
        "pipeline_tag": "image-to-image",
        "tags": ["dirformer", "diffir", "image-restoration", config.task],
    }
    if scores:
        fields["metrics"] = sorted({kind for kind, _, _ in scores})
        fields["model-index"] = [{"name": name, "results": [_result(config.task, scores)]}]
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    text = body or _body(name, header, size, scores)
    usage = f"""
## Use

```sh
pip install "dirformer[hub]"
dirformer restore photo.jpg -o restored.png --model {address}
```

## Paper

Xia et al., *DiffIR: Efficient Diffusion Model for Image Restoration*, ICCV 2023, {PAPER}
"""
    return f"---\n{_yaml(fields)}---\n{text.rstrip()}\n{usage}"


def _yaml(fields: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _scores(provenance: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Return kind, name and value of the scores that a weight file's provenance holds."""
    given = provenance.get("scores")
    found = []
    for name, value in given.items() if isinstance(given, dict) else ():
        kind = next((kind for word, kind in _METRICS.items() if word in name), None)
        if kind is not None and type(value) in (int, float):
            found.append((kind, name, float(value)))
    return found


def _result(task: str, scores: list[tuple[str, str, float]]) -> dict[str, Any]:
    return {
        "task": {"type": "image-to-image", "name": TASKS[task].title},
        "dataset": {"type": "validation", "name": "validation photos of the training"},
        "metrics": [{"type": kind, "name": name, "value": round(value, 4)} for kind, name, value in scores],
    }


def _body(name: str, header: Header, size: float, scores: list[tuple[str, str, float]]) -> str:
    config, recipe = header.config, header.provenance.get("recipe")
    lines = [
        f"# {name}",
        "",
        f"{TASKS[config.task].title} ×{config.scale}: DiffIR, stage {header.stage}, {size:.2f} M parameters.",
        "",
    ]
    if isinstance(recipe, dict) and "name" in recipe:
        steps = header.provenance.get("steps", "an unknown number of")
        lines += [f"Trained by the recipe `{recipe['name']}`, {steps} steps.", ""]
    if scores:
        lines += ["| score | value |", "|---|---|"]
        lines += [f"| {label} | {value:.4g} |" for _, label, value in scores]
    else:
        lines += ["No scores were recorded. Score it with `dirformer evaluate` before you rely on it."]
    return "\n".join(lines)
