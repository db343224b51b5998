"""What a DiffIR network is made of.

The four tasks differ by the fields below and by nothing else. Where the paper's text and the released
code disagree, both behaviours are values of one field; the default is the released one, because
released weights need it.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import Field, asdict, dataclass, fields
from reprlib import repr as short
from typing import Any, Literal, get_args

from dirformer.ground import checks
from dirformer.ground.errors import ConfigError
from dirformer.tasks import TASKS

Norm = Literal["with_bias", "bias_free"]
Tail = Literal["conv", "shuffle", "direct", "nearest"]
Skip = Literal["none", "nearest", "bicubic"]
Fill = Literal["zero", "smooth", "exemplar"]

LEVELS = 4


@dataclass(frozen=True)
class ModelConfig:
    """One DiffIR network, both stages. Immutable, checked on construction, a plain dictionary in files."""

    task: str
    """What the network was made for: a name of `tasks.TASKS`. Where the task has a mask, it is a fourth input
    channel (1 = hole)."""
    scale: int = 1
    """Output size over input size per side: 1, 2, 3, 4 …"""

    # DIRformer
    dim: int = 48
    """Channels of level 1; levels 2 to 4 have 2, 4 and 8 times as many."""
    blocks: tuple[int, ...] = (4, 6, 6, 8)
    """Transformer blocks of levels 1 to 4 (the decoder repeats levels 3 to 1)."""
    refinement_blocks: int = 4
    """Blocks at full size and width 2·dim behind the decoder; 0 leaves them out."""
    heads: tuple[int, ...] = (1, 2, 4, 8)
    """Attention heads of levels 1 to 4; decoder level 1 and refinement use those of level 1."""
    ffn_factor: float = 2.66
    """Hidden width of a DGFN over its channels, truncated to an integer at each level."""
    norm: Norm = "with_bias"
    """`with_bias`: (x − mean)/σ·w + b. `bias_free`: x/σ·w, the mean kept (released SR)."""
    bias: bool = False
    """Bias in the 1×1 and depth-wise convolutions of DMTA, DGFN and skip reductions."""
    unshuffle: int = 1
    """Pixel-unshuffle of the input in front of the DIRformer (released SR: ×2 takes 2, ×1 takes 4)."""
    tail: Tail = "conv"
    """`conv`: one 3×3. `shuffle`: twice (3×3, pixel-shuffle 2), 3×3 (released SR). `direct`: one 3×3 and
    one pixel-shuffle. `nearest`: twice (nearest ×2, 3×3, LeakyReLU), 3×3, LeakyReLU, 3×3 (all that ESRGAN has
    behind its blocks, the paper's wording)."""
    skip: Skip = "nearest"
    """What the output is added to: the input, enlarged this way (at scale 1 the input itself), or nothing."""

    fill: Fill = "zero"
    """Inpainting, what the input holds in its holes: black (released), a smooth filling, or one
    from exemplars (the room `holes`)."""

    # Attention, paper against released
    qk_norm: bool = True
    """Scale queries and keys to unit length over the pixels (released); the paper does not mention it."""
    softmax_axis: Literal["key", "query"] = "key"
    """Axis over which an attention row sums to 1: released `key`; Eq. 7 read literally gives `query`."""
    temperature: Literal["multiply", "divide"] = "multiply"
    """γ multiplies (released) or divides (Eq. 7)."""

    # CPEN
    cpen_dim: int = 64
    """Channels of the first half of CPEN; the second half has twice as many."""
    cpen_blocks: int = 5
    """Residual blocks of CPEN."""
    cpen_unshuffle: int = 4
    """Pixel-unshuffle of the LQ photo in front of CPEN; the GT is unshuffled `scale` times as much."""
    cpen_order: Literal["lq_gt", "gt_lq"] = "lq_gt"
    """Order in which stage 1 concatenates both photos: released LQ first, paper GT first."""
    prior_dim: int = 256
    """Numbers in the IPR, 4·C' in the paper."""
    condition: Literal["photo", "constant"] = "photo"
    """What stage 2's CPEN gives: the photo's condition D, or (a control experiment, with `timesteps` 0) one
    learned vector for all photos."""

    # Diffusion and denoiser
    timesteps: int = 4
    """T; 0 means no diffusion: the condition D is itself the estimate of the IPR (ablation V1)."""
    beta_start: float = 0.1
    beta_end: float = 0.99
    beta_schedule: Literal["sqrt", "linear"] = "sqrt"
    """`sqrt`: linear in the square root of β (released). `linear`: linear in β (the paper's words)."""
    target: Literal["x0", "epsilon"] = "x0"
    """What the denoiser predicts: the IPR (released) or the noise (paper, Eqs. 3, 4, 11)."""
    reverse_noise: bool = False
    """Add the posterior's noise in each reverse step but the last (Eq. 3; deleted in Sec. 4.2, V4)."""
    denoiser_blocks: int = 1
    """Linear layers behind the denoiser's first."""
    denoiser_output: Literal["leaky", "linear"] = "leaky"
    """What the denoiser's last layer ends with: a LeakyReLU of slope 0.1 (released), or nothing. Noise is as
    often negative as positive; the LeakyReLU makes it hard to predict, see docs/reports/literal.md."""
    denoiser_order: Literal["condition_first", "noise_first"] = "condition_first"
    """Concatenation (D, t, Z) as released, or (Z, t, D) as in the paper."""
    time: Literal["scaled", "index"] = "scaled"
    """Time as fed to the denoiser: (t − 1)/(10·T) as released, or t itself (1 … T) as in the paper."""

    def __post_init__(self) -> None:
        checks.settle(self, **{each.name: _typed(each, getattr(self, each.name)) for each in fields(self)})
        _require_choice("task", self.task)
        for field in _CHOICES:
            _require_choice(field, getattr(self, field))
        for field in _POSITIVE:
            _require(getattr(self, field) >= 1, self, field, "at least 1")
        for field in ("refinement_blocks", "cpen_blocks", "timesteps", "denoiser_blocks"):
            _require(getattr(self, field) >= 0, self, field, "at least 0")
        for field, most in _MOST.items():
            values = getattr(self, field)
            numbers = values if isinstance(values, tuple) else (values,)
            # Written so that NaN, which compares false with everything, is refused too.
            _require(all(number <= most for number in numbers), self, field, f"at most {most:,}")
        for field in ("blocks", "heads"):
            values = getattr(self, field)
            _require(len(values) == LEVELS and min(values) >= 1, self, field, "four numbers of at least 1")
        _require(self.dim % 2 == 0, self, "dim", "even (each step down halves it before the pixel-unshuffle)")
        for level, heads in enumerate(self.heads):
            width = self.dim * 2**level
            _require(
                width % heads == 0, self, "heads", f"a divisor of the width {width} at level {level + 1}"
            )
        _require(2 * self.dim % self.heads[0] == 0, self, "heads", "a divisor of the decoder width")
        _require(self.ffn_factor * self.dim >= 1, self, "ffn_factor", "a hidden width of at least 1")
        low, high = self.beta_start, self.beta_end
        _require(0 < low < 1, self, "beta_start", "between 0 and 1")
        _require(0 < high < 1, self, "beta_end", "between 0 and 1")
        constant = self.condition == "constant"
        _require(not constant or not self.timesteps, self, "condition", "photo unless timesteps is 0")
        enlarge = self.scale * self.unshuffle
        expected = {"conv": enlarge == 1, "shuffle": enlarge == 4, "nearest": enlarge == 4, "direct": True}
        _require(
            expected[self.tail],
            self,
            "tail",
            f"a tail that enlarges scale·unshuffle = {enlarge} times (conv 1, shuffle or nearest 4, direct)",
        )

    @property
    def in_channels(self) -> int:
        """Channels of the network's input: RGB, and the mask in inpainting."""
        return TASKS[self.task].channels

    @property
    def multiple(self) -> int:
        """Both sides of the input must be multiples of this: three halvings behind the unshuffle."""
        return math.lcm(2 ** (LEVELS - 1) * self.unshuffle, self.cpen_unshuffle)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of levels 1 to 4."""
        return tuple(self.dim * 2**level for level in range(LEVELS))

    def hidden(self, width: int) -> int:
        """Hidden width of a DGFN on `width` channels."""
        return int(width * self.ffn_factor)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Rebuild from `to_dict`'s result; unknown fields and wrong types raise ConfigError."""
        known = {each.name: each for each in fields(cls)}
        for name in checks.instance("model config", values, dict):
            if name not in known:
                near = difflib.get_close_matches(str(name)[:40], known, n=1, cutoff=0.0)[0]
                raise ConfigError(
                    f"model config has no field {short(name)}; the nearest valid one is {near!r}"
                )
        if "task" not in values:
            raise ConfigError("model config has no task; expected one of " + ", ".join(TASKS))
        typed = {name: _typed(known[name], value) for name, value in values.items()}
        for name, value in typed.items():
            _require_choice(name, value)
        return cls(**typed)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "norm": get_args(Norm),
    "tail": get_args(Tail),
    "skip": get_args(Skip),
    "fill": get_args(Fill),
    "softmax_axis": ("key", "query"),
    "temperature": ("multiply", "divide"),
    "cpen_order": ("lq_gt", "gt_lq"),
    "beta_schedule": ("sqrt", "linear"),
    "target": ("x0", "epsilon"),
    "condition": ("photo", "constant"),
    "denoiser_order": ("condition_first", "noise_first"),
    "denoiser_output": ("leaky", "linear"),
    "time": ("scaled", "index"),
}
_MOST = {
    "scale": 64,
    "dim": 4096,
    "blocks": 1000,
    "refinement_blocks": 1000,
    "heads": 4096,
    "ffn_factor": 64,
    "unshuffle": 64,
    "cpen_dim": 4096,
    "cpen_blocks": 1000,
    "cpen_unshuffle": 64,
    "prior_dim": 16384,
    "timesteps": 10_000,
    "denoiser_blocks": 1000,
}
"""Far beyond every network that was ever trained: a config from a file may not ask for any size."""
_LARGEST = 2**53
"""Whole numbers up to this are floats, too."""
_POSITIVE = ("scale", "dim", "unshuffle", "cpen_dim", "cpen_unshuffle", "prior_dim")


def _typed(field: Field[Any], value: Any) -> Any:
    """Return a value as its field's type. JSON and YAML know lists only, and 1 may stand for 1.0."""
    kind = str if field.name == "task" else type(field.default)
    if kind is tuple and isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return tuple(value)
    if kind is float and type(value) is int and abs(value) <= _LARGEST:
        return float(value)
    if type(value) is not kind or kind is tuple:
        raise ConfigError(f"model config: {field.name} is {short(value)}; expected {kind.__name__}")
    return value


def _require_choice(field: str, value: Any) -> None:
    choices = tuple(TASKS) if field == "task" else _CHOICES.get(field, (value,))
    if value not in choices:
        raise ConfigError(f"model config: {field} is {short(value)}; expected one of {', '.join(choices)}")


def _require(holds: bool, config: ModelConfig, field: str, rule: str) -> None:
    if not holds:
        raise ConfigError(f"model config: {field} is {short(getattr(config, field))}; expected {rule}")
