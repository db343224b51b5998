"""The authors' weight files ↔ ours: the key table, and the config from keys and shapes.

Their files are pickles; `unpickle.py` reads them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dirformer.ground.errors import CheckpointError, ConfigError, OutputError
from dirformer.ground.paths import atomic_path
from dirformer.networks.config import LEVELS, ModelConfig
from dirformer.networks.diffir import DiffIR, DiffIRS2
from dirformer.networks.prior import beta_schedule
from dirformer.tasks import find_task
from dirformer.weights import checkpoints
from dirformer.weights.checkpoints import Inference
from dirformer.weights.unpickle import read_foreign


def convert(
    source: Path, out: Path, *, task: str | None = None, teacher: bool = False, overwrite: bool = False
) -> str:
    """Convert a weight file by the suffix of `out`: `.safetensors` is ours, `.pth` and `.ckpt` theirs.

    Args:
        source: an authors' `.pth` or `.ckpt`, or one of ours for the way back.
        out: file to write. `.pth` has `params` and `params_ema` as in BasicSR, `.ckpt` has `state_dict`
            with the prefix `generator.` as in LaMa; both load strictly into the authors' classes.
        task: names the task where weights cannot tell it (super-resolution against real-world).
        teacher: take the stage-1 network that an inpainting stage-2 checkpoint carries.
        overwrite: replace `out`.

    Returns:
        One line that says what the file holds.

    Raises:
        CheckpointError: if the source is foreign, incomplete, inconsistent or not finite.
        OutputError: if `out` exists or its suffix is unknown.
    """
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already; add --overwrite to replace it")
    if out.suffix not in (".safetensors", ".pth", ".ckpt"):
        raise OutputError(f"{out} has no known suffix; expected .safetensors (ours), .pth or .ckpt (theirs)")
    if source.suffix == ".safetensors":
        weights = checkpoints.read(source)
        model, inference = weights.model, weights.header.inference
    else:
        model = from_authors(read_foreign(source), str(source), task=task, teacher=teacher)
        inference = Inference(patch=find_task(model.config.task).patch)
    if out.suffix == ".safetensors":
        checkpoints.save(out, model, {"source": source.name}, inference)
    else:
        tensors = to_authors(model)
        content: dict[str, Any] = (
            {"params": tensors, "params_ema": tensors}
            if out.suffix == ".pth"
            else {"state_dict": {f"generator.{key}": value for key, value in tensors.items()}}
        )
        with atomic_path(out) as part:
            torch.save(content, part)
    count = sum(p.numel() for p in model.parameters())
    config = model.config
    return f"{out}: {config.task} ×{config.scale}, stage {model.stage}, {count:,} parameters"


# The key table ----------------------------------------------------------------------------------------

_LEVELS = {
    "encoder.0": "encoder_level1",
    "encoder.1": "encoder_level2",
    "encoder.2": "encoder_level3",
    "encoder.3": "latent",
    "decoder.2": "decoder_level3",
    "decoder.1": "decoder_level2",
    "decoder.0": "decoder_level1",
    "refinement": "refinement",
}
_BLOCK = {
    "attention.norm": "norm1.body",
    "attention.norm.modulation": "attn.kernel.0",
    "attention": "attn",  # its temperature
    "attention.qkv": "attn.qkv",
    "attention.qkv_depthwise": "attn.qkv_dwconv",
    "attention.project": "attn.project_out",
    "feed_forward.norm": "norm2.body",
    "feed_forward.norm.modulation": "ffn.kernel.0",
    "feed_forward.expand": "ffn.project_in",
    "feed_forward.depthwise": "ffn.dwconv",
    "feed_forward.project": "ffn.project_out",
}
_DIRFORMER = {
    "embed": "patch_embed.proj",
    "down.0": "down1_2.body.0",
    "down.1": "down2_3.body.0",
    "down.2": "down3_4.body.0",
    "up.0": "up2_1.body.0",
    "up.1": "up3_2.body.0",
    "up.2": "up4_3.body.0",
    "reduce.0": "reduce_chan_level2",
    "reduce.1": "reduce_chan_level3",
}
_TAILS = {
    "conv": {"tail.0": "output"},
    "shuffle": {"tail.0": "tail.0.0", "tail.2": "tail.0.2", "tail.4": "tail.1"},
    # Not in the release: ESRGAN's tail, which the paper names, under ESRGAN's names.
    "nearest": {"tail.1": "conv_up1", "tail.4": "conv_up2", "tail.6": "conv_hr", "tail.8": "conv_last"},
}
_FIRST_ESRGAN = {"upconv1": "conv_up1", "upconv2": "conv_up2", "HRconv": "conv_hr"}
"""Names of the same layers in ESRGAN's first files."""
_LITERAL = (
    *(
        "qk_norm",
        "softmax_axis",
        "temperature",
        "cpen_order",
        "target",
        "beta_schedule",
        "time",
        "denoiser_order",
    ),
    *("denoiser_output", "reverse_noise", "condition", "fill"),
)
"""Fields that no key or shape tells: the released classes compute their released values."""


def module_table(config: ModelConfig, stage: int) -> dict[str, str]:
    """Return our module names and the authors', for every module that holds tensors.

    Raises:
        CheckpointError: if the network has parts that the released classes do not have.
    """
    if config.tail not in _TAILS or (stage == 2 and not config.timesteps):
        raise CheckpointError(
            "the released classes have no such network "
            f"(tail {config.tail!r}, timesteps {config.timesteps}); it cannot be written in their format"
        )
    table = {
        f"dirformer.{ours}": f"G.{theirs}" for ours, theirs in (_DIRFORMER | _TAILS[config.tail]).items()
    }
    counts = [*config.blocks, *reversed(config.blocks[:-1]), config.refinement_blocks]
    for (ours, theirs), count in zip(_LEVELS.items(), counts, strict=True):
        for i in range(count):
            for part, their_part in _BLOCK.items():
                table[f"dirformer.{ours}.{i}.{part}"] = f"G.{theirs}.{i}.{their_part}"
    cpen, n = ("E" if stage == 1 else "condition"), config.cpen_blocks
    table["cpen.embed"] = f"{cpen}.E.0"
    for i in range(n):
        table[f"cpen.blocks.{i}.first"] = f"{cpen}.E.{i + 2}.body.0"
        table[f"cpen.blocks.{i}.second"] = f"{cpen}.E.{i + 2}.body.2"
    for i in range(3):
        table[f"cpen.widen.{i}"] = f"{cpen}.E.{n + 2 + 2 * i}"
    for i in range(2):
        table[f"cpen.mlp.{i}"] = f"{cpen}.mlp.{2 * i}"
    if stage == 2:
        table["denoiser.layers.0"] = "denoise.resmlp.0"
        for i in range(config.denoiser_blocks):
            table[f"denoiser.layers.{i + 1}"] = f"denoise.resmlp.{i + 2}.resmlp.0"
        table["diffusion"] = "diffusion"  # its betas
    return table


def _modern(key: str) -> str:
    part = key.split(".")
    if len(part) == 3 and part[0] == "G" and part[1] in _FIRST_ESRGAN:
        return f"G.{_FIRST_ESRGAN[part[1]]}.{part[2]}"
    return key


def _their_key(ours: str, table: dict[str, str]) -> str:
    module, _, leaf = ours.rpartition(".")
    return f"{table[module]}.{leaf}"


def from_authors(
    content: Any, source: str = "file", *, task: str | None = None, teacher: bool = False
) -> DiffIR:
    """Build our network from what `unpickle.read_foreign` returned.

    Raises:
        CheckpointError: naming what is missing, foreign or inconsistent.
    """
    tensors = {_modern(key): v for key, v in _unwrapped(content, source, teacher=teacher).items()}
    stage = 1 if "E.E.0.weight" in tensors else 2
    config = infer_config(tensors, source, task=task)
    checkpoints.require_blocks(config, len(tensors), source)
    _require_storages(tensors, source)
    table = module_table(config, stage)
    theirs = {_their_key(key, table): key for key in checkpoints.shapes(stage, config)}
    for copy, original in (("diffusion.condition.", "condition."), ("diffusion.model.", "denoise.")):
        for key in [k for k in tensors if k.startswith(copy)]:
            twin = tensors.get(original + key.removeprefix(copy))
            if twin is None or not torch.equal(tensors.pop(key), twin):
                raise CheckpointError(
                    f"{source}: {key} and its copy under {original} differ; the file is damaged"
                )
    ours = {}
    for key, value in tensors.items():
        if key in theirs:
            ours[theirs[key]] = value
        elif not key.startswith("diffusion."):  # buffers that follow from betas
            ours[f"{key} (theirs)"] = value
    return checkpoints.build(stage, config, ours, source)


def _require_storages(tensors: dict[str, Tensor], source: str) -> None:
    """Raise CheckpointError if tensors share storages so much that a small file asks for a large network.

    The authors' files hold CPEN and the denoiser twice on the same storages.
    """
    values = sum(value.numel() for value in tensors.values())
    storages = {s.data_ptr(): s.nbytes() for s in (value.untyped_storage() for value in tensors.values())}
    held = sum(storages.values())
    if values > held:  # a value has two bytes at least
        raise CheckpointError(
            f"{source} is damaged: its tensors have {values} values on storages of {held} bytes"
        )


def to_authors(model: DiffIR) -> OrderedDict[str, Tensor]:
    """Return the state dict that the authors' class loads with `strict=True`, copies and buffers included."""
    table = module_table(model.config, model.stage)
    released = ModelConfig(task=model.config.task)
    for name in _LITERAL:
        value = getattr(model.config, name)
        if value != getattr(released, name):
            raise CheckpointError(
                f"the released classes compute {name} = {getattr(released, name)!r}, this network {value!r}; "
                "it cannot be written in their format"
            )
    tensors = OrderedDict(
        (_their_key(key, table), value.detach().cpu().clone()) for key, value in model.state_dict().items()
    )
    if isinstance(model, DiffIRS2):
        for original, copy in (("condition.", "diffusion.condition."), ("denoise.", "diffusion.model.")):
            for key in [k for k in tensors if k.startswith(original)]:
                tensors[copy + key.removeprefix(original)] = tensors[key]
        tensors.update(_schedule_buffers(model.config))
    return tensors


def _schedule_buffers(config: ModelConfig) -> dict[str, Tensor]:
    betas = beta_schedule(config.timesteps, config.beta_start, config.beta_end, config.beta_schedule)
    alphas = 1 - betas
    cumulative = alphas.cumprod(0)
    previous = torch.cat([cumulative.new_ones(1), cumulative[:-1]])
    variance = betas * (1 - previous) / (1 - cumulative)
    buffers = {
        "betas": betas,
        "alphas_cumprod": cumulative,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": cumulative.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - cumulative).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - cumulative).log(),
        "sqrt_recip_alphas_cumprod": (1 / cumulative).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / cumulative - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp_min(1e-20).log(),
        "posterior_mean_coef1": betas * previous.sqrt() / (1 - cumulative),
        "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - cumulative),
    }
    return {f"diffusion.{name}": values.float() for name, values in buffers.items()}


# The config from keys and shapes ----------------------------------------------------------------------


def infer_config(tensors: dict[str, Tensor], source: str = "file", *, task: str | None = None) -> ModelConfig:
    """Read the network's description off an authors' state dict.

    Super-resolution and real-world super-resolution have equal networks: `task="realsr"` names the latter.

    Raises:
        CheckpointError: if the keys are not those of a DiffIR, or do not fit together.
    """
    try:
        config = ModelConfig.from_dict(_fields(tensors, task))
    except (LookupError, ValueError, TypeError, ArithmeticError, ConfigError) as error:
        raise CheckpointError(
            f"{source} has some of DiffIR's tensors, but not all, or of other shapes ({error}); "
            "the file is incomplete"
        ) from None
    return config


def _fields(tensors: dict[str, Tensor], task: str | None) -> dict[str, Any]:
    def shape(key: str) -> torch.Size:
        return tensors[key].shape

    def count(pattern: str) -> int:
        return len({m.group(1) for key in tensors if (m := re.match(pattern, key))})

    levels = ["encoder_level1", "encoder_level2", "encoder_level3", "latent"]
    dim, channels = shape("G.patch_embed.proj.weight")[:2]
    esrgan = "G.conv_last.weight" in tensors
    is_sr = esrgan or "G.tail.1.weight" in tensors
    unshuffle = {3: 1, 12: 2, 48: 4}[channels] if is_sr else 1
    scale = 4 // unshuffle if is_sr else 1
    inferred = "sr" if is_sr else {4: "inpainting", 3: "deblurring"}[channels]
    if task not in (None, inferred) and not (is_sr and task == "realsr"):
        raise ConfigError(f"its task is {inferred}, not {task}")
    hidden = [shape(f"G.{level}.0.ffn.project_out.weight")[1] for level in levels]
    cpen = "E" if "E.E.0.weight" in tensors else "condition"
    fields: dict[str, Any] = {
        "task": task or inferred,
        "scale": scale,
        "dim": dim,
        "blocks": [count(rf"G\.{level}\.(\d+)\.") for level in levels],
        "refinement_blocks": count(r"G\.refinement\.(\d+)\."),
        "heads": [shape(f"G.{level}.0.attn.temperature")[0] for level in levels],
        "ffn_factor": _factor(dim, hidden),
        "norm": "with_bias" if "G.encoder_level1.0.norm1.body.bias" in tensors else "bias_free",
        "bias": "G.encoder_level1.0.attn.qkv.bias" in tensors,
        "unshuffle": unshuffle,
        "tail": "nearest" if esrgan else "shuffle" if is_sr else "conv",
        "skip": "none" if inferred == "inpainting" else "nearest",
        "cpen_dim": shape(f"{cpen}.E.0.weight")[0],
        "cpen_blocks": count(rf"{cpen}\.E\.(\d+)\.body"),
        "cpen_unshuffle": 4 // scale if is_sr else 4,
        "prior_dim": shape(f"{cpen}.mlp.0.weight")[0],
    }
    if cpen == "condition":
        betas = tensors["diffusion.betas"]
        # Stored in float32; the options they came from have few digits.
        start, end = (round(float(b), 6) for b in (betas[0], betas[-1]))
        made = beta_schedule(len(betas), start, end, "sqrt").float()
        if not torch.equal(made, betas.float()):
            raise ConfigError(f"its betas {betas[:8].tolist()} are not linear in their square root")
        fields |= {
            "timesteps": len(betas),
            "beta_start": start,
            "beta_end": end,
            "denoiser_blocks": count(r"denoise\.resmlp\.(\d+)\.resmlp"),
        }
    return fields


def _factor(dim: int, hidden: list[int]) -> float:
    """Return the factor with the fewest digits that gives these hidden widths at all four levels."""
    widths = [dim * 2**level for level in range(LEVELS)]
    ratios = [h / w for h, w in zip(hidden, widths, strict=True)]
    highest = min((h + 1) / w for h, w in zip(hidden, widths, strict=True))
    for digits in range(1, 9):
        for guess in (ratios[-1], (max(ratios) + highest) / 2):
            factor = round(guess, digits)
            if [int(w * factor) for w in widths] == hidden:
                return factor
    raise ConfigError(f"its hidden widths {hidden} are not one factor of the widths {widths}")


def _unwrapped(content: Any, source: str, *, teacher: bool) -> dict[str, Tensor]:
    """Return the state dict of one DiffIR: unwrapped, prefixes cut, other networks left out."""
    wrapper = next(
        (k for k in ("params_ema", "params", "state_dict") if isinstance(content, dict) and k in content),
        None,
    )
    state = content if wrapper is None else content[wrapper]
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{source} holds no state dict; expected params_ema, params, state_dict or flat keys"
        )
    tensors = {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    # Networks in the file, by prefix: "" for a bare one, "generator.", "generatorS1." … in a Lightning file.
    prefixes = {
        key.removesuffix(f"{cpen}.E.0.weight"): stage
        for key in tensors
        for cpen, stage in (("E", 1), ("condition", 2))
        if re.fullmatch(rf"(\w+\.)?{cpen}\.E\.0\.weight", key) and not key.startswith("diffusion.")
    }
    if teacher:
        chosen = [p for p, stage in prefixes.items() if stage == 1 and p not in ("", "generator.")]
    else:
        chosen = [p for p in ("", "generator.") if p in prefixes]
    if not chosen:
        what = "no stage-1 teacher" if teacher else "no DiffIR network"
        first = ", ".join(list(tensors)[:3]) or "no tensors"
        raise CheckpointError(
            f"{source} holds {what} (its keys begin: {first}); expected E.E.0.weight or condition.E.0.weight"
        )
    prefix = chosen[0]
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
