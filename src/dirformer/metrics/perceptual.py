"""LPIPS, DISTS and FID: published networks, computed from their published weight files.

The networks are functions of a dictionary of tensors, so widths come from the file and nothing is built.
Weights are looked for in one folder (`WEIGHTS` below says which file is which) and opened by the package's
restricted loader, which executes nothing. Nothing is fetched: where a file is missing, `MissingWeightsError`
says in one line which file to put where, and the rest of a table is still computed.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dirformer.ground.errors import CheckpointError, DataError
from dirformer.ground.paths import installed_file
from dirformer.networks.features import ShiftTolerantAlexNet
from dirformer.weights.unpickle import read_foreign

Weights = dict[str, Tensor]


class MissingWeightsError(CheckpointError):
    """A published weight file is not there; the message says which file to put where."""


@dataclass(frozen=True)
class WeightFile:
    """A published weight file."""

    name: str
    source: str
    installed: tuple[str, str] | None = None
    """A package that brings it, and where in it."""
    address: str = ""
    """Where it is published."""
    sha256: str = ""
    """Of the published file; of `dists`, of the copy that torchmetrics brings."""


_TORCHVISION = "https://download.pytorch.org/models/"
_LPIPS = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/"
WEIGHTS = {
    "alexnet": WeightFile(
        "alexnet-owt-7be5be79.pth",
        "torchvision's AlexNet",
        address=_TORCHVISION + "alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    "vgg16": WeightFile(
        "vgg16-397923af.pth",
        "torchvision's VGG16",
        address=_TORCHVISION + "vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "lpips_alex": WeightFile(
        "lpips_alex.pth",
        "LPIPS v0.1 alex.pth",
        installed=("torchmetrics", "functional/image/lpips_models/alex.pth"),
        address=_LPIPS + "alex.pth",
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
    "lpips_vgg": WeightFile(
        "lpips_vgg.pth",
        "LPIPS v0.1 vgg.pth",
        installed=("torchmetrics", "functional/image/lpips_models/vgg.pth"),
        address=_LPIPS + "vgg.pth",
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    "dists": WeightFile(
        "dists.pt",
        "weights.pt of DISTS-pytorch",
        installed=("torchmetrics", "functional/image/dists_models/weights.pt"),
        address="https://github.com/dingkeyan93/DISTS/raw/master/DISTS_pytorch/weights.pt",
        sha256="f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
    ),
    "stlpips": WeightFile(
        "alex_shift_tolerant.pth",
        "ST-LPIPS, in the package stlpips-pytorch",
        installed=ShiftTolerantAlexNet.INSTALLED,
    ),
    "inception": WeightFile(
        "pt_inception-2015-12-05-6726825d.pth",
        "pytorch-fid's Inception of 2015",
        address="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
}
METRIC_FILES = {
    "fid": ("inception",),
    "lpips_alex": ("alexnet", "lpips_alex"),
    "lpips_vgg": ("vgg16", "lpips_vgg"),
    "dists": ("vgg16", "dists"),
}
"""Which files the scores of the paper's tables need."""


def weight_path(key: str, folder: Path | None = None) -> Path | None:
    """Return where a file of WEIGHTS lies: in the folder, or in an installed package; None if in neither."""
    file, path = WEIGHTS[key], weights_folder(folder) / WEIGHTS[key].name
    if not path.is_file() and file.installed is not None:
        path = installed_file(*file.installed) or path
    return path if path.is_file() else None


def weights_folder(folder: Path | None = None) -> Path:
    """Return where published weights are looked for.

    `folder` if given, else the environment's DIRFORMER_METRIC_WEIGHTS, else the user's cache.
    """
    if folder is not None:
        return folder
    if "DIRFORMER_METRIC_WEIGHTS" in os.environ:
        return Path(os.environ["DIRFORMER_METRIC_WEIGHTS"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dirformer" / "metrics"


def read_weights(key: str, folder: Path | None = None, device: str | torch.device = "cpu") -> Weights:
    """Read a file of WEIGHTS: from the folder, or from an installed package that brings it.

    Raises:
        MissingWeightsError: if it is in neither; CheckpointError if it cannot be read as tensors.
    """
    file, place = WEIGHTS[key], weights_folder(folder)
    path = weight_path(key, folder)
    if path is None:
        raise MissingWeightsError(f"{file.name} ({file.source}) is not there; put it into {place}")
    content = read_foreign(path)
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name; expected {file.source}")
    return {k: v.detach().float().to(device) for k, v in tensors.items()}


def _take(weights: Weights, key: str, source: str) -> Tensor:
    if key not in weights:
        raise CheckpointError(f"the weights of {source} lack {key}; is it the published file?")
    return weights[key]


# Feature extractors -----------------------------------------------------------------------------------

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LPIPS_SCALING = ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
# Numbers of the convolutions in torchvision's `features`, one tuple per stage.
_VGG_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


def vgg16_stages(
    weights: Weights, x: Float[Tensor, "b 3 h w"], *, l2_pool: bool = False
) -> list[Float[Tensor, "b ..."]]:
    """Return VGG16's maps behind the last ReLU of each stage; `l2_pool` is how DISTS shrinks in between."""
    maps = []
    for stage, layers in enumerate(_VGG_STAGES):
        if stage > 0:
            x = _l2_pool(x) if l2_pool else F.max_pool2d(x, 2)
        for layer in layers:
            x = F.relu(_features(weights, layer, x, padding=1))
        maps.append(x)
    return maps


def alexnet_stages(weights: Weights, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b ..."]]:
    """Return AlexNet's maps behind each ReLU."""
    maps = []
    for layer, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
        if layer in (3, 6):
            x = F.max_pool2d(x, 3, 2)
        x = F.relu(_features(weights, layer, x, padding=padding, stride=stride))
        maps.append(x)
    return maps


def _features(weights: Weights, layer: int, x: Tensor, *, padding: int, stride: int = 1) -> Tensor:
    weight = _take(weights, f"features.{layer}.weight", "torchvision")
    return F.conv2d(x, weight, _take(weights, f"features.{layer}.bias", "torchvision"), stride, padding)


def _l2_pool(x: Tensor) -> Tensor:
    # A Hann window of 5 whose ends are zero: (½, 1, ½) on squares.
    row = x.new_tensor([0.5, 1.0, 0.5])
    window = row[:, None] * row / 4
    channels = x.shape[1]
    pooled = F.conv2d(x.square(), window.expand(channels, 1, 3, 3), stride=2, padding=1, groups=channels)
    return (pooled + 1e-12).sqrt()


def _pair(weights: Weights, result: Tensor, gt: Tensor) -> Tensor:
    return torch.stack([result, gt]).to(next(iter(weights.values())))


# Full-reference scores ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LPIPS:
    """Zhang et al. 2018, version 0.1: weighted squared differences of unit-length features. 0 is equal."""

    backbone: Weights
    heads: Weights
    net: str
    """`alex` or `vgg`."""

    @torch.inference_mode()
    def __call__(self, result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> float:
        # LPIPS's own normalisation of photos in −1 … 1.
        pair = _pair(self.backbone, result, gt)
        shift, scale = (pair.new_tensor(v)[:, None, None] for v in _LPIPS_SCALING)
        pair = (2 * pair - 1 - shift) / scale
        stages = vgg16_stages if self.net == "vgg" else alexnet_stages
        distance = 0.0
        for number, maps in enumerate(stages(self.backbone, pair)):
            unit = maps / (maps.square().sum(1, keepdim=True).sqrt() + 1e-10)
            head = _take(self.heads, f"lin{number}.model.1.weight", "LPIPS")
            distance += float(F.conv2d((unit[:1] - unit[1:]).square(), head).mean())
        return distance


@dataclass(frozen=True)
class STLPIPS:
    """Ghildyal & Liu 2022: a perceptual distance that small shifts do not upset (AlexNet). 0 is equal."""

    network: ShiftTolerantAlexNet

    @torch.inference_mode()
    def __call__(self, result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> float:
        pair = torch.stack([result, gt]).to(self.network.shift)
        return float(self.network(pair[:1], pair[1:]))


@dataclass(frozen=True)
class DISTS:
    """Ding et al. 2020: structure and texture of VGG16 features and of the photo itself. 0 is equal."""

    backbone: Weights
    mixture: Weights
    """`alpha` and `beta`, one number per channel of the photo and of each stage."""

    @torch.inference_mode()
    def __call__(self, result: Float[Tensor, "3 h w"], gt: Float[Tensor, "3 h w"]) -> float:
        pair = _pair(self.backbone, result, gt)
        mean, deviation = (pair.new_tensor(v)[:, None, None] for v in (_MEAN, _DEVIATION))
        maps = [pair, *vgg16_stages(self.backbone, (pair - mean) / deviation, l2_pool=True)]
        alpha, beta = (_take(self.mixture, name, "DISTS").flatten() for name in ("alpha", "beta"))
        whole, similarity, start = alpha.sum() + beta.sum(), 0.0, 0
        for features in maps:
            part = slice(start, start := start + features.shape[1])
            x, y = features.flatten(2)
            mean_x, mean_y = x.mean(1), y.mean(1)
            var_x, var_y = ((v - m[:, None]).square().mean(1) for v, m in ((x, mean_x), (y, mean_y)))
            covariance = (x * y).mean(1) - mean_x * mean_y
            texture = (2 * mean_x * mean_y + 1e-6) / (mean_x**2 + mean_y**2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (var_x + var_y + 1e-6)
            similarity += float((alpha[part] * texture + beta[part] * structure).sum() / whole)
        return 1 - similarity


# FID ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inception:
    """Inception-v3 of 2015 in the port that FID is computed with: photo → 2048 features."""

    weights: Weights

    @torch.inference_mode()
    def __call__(self, photo: Float[Tensor, "3 h w"]) -> Float[Tensor, "n"]:
        photo = photo[None].to(next(iter(self.weights.values())))
        x = F.interpolate(photo, size=(299, 299), mode="bilinear", align_corners=False)
        x = self._stem(2 * x - 1)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self._block_a(name, x)
        x = self._block_b("Mixed_6a", x)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self._block_c(name, x)
        x = self._block_d("Mixed_7a", x)
        x = self._block_e("Mixed_7b", x, _mean_pool(x))
        # The port keeps a peculiarity of the original: the last block pools by maximum.
        x = self._block_e("Mixed_7c", x, F.max_pool2d(x, 3, 1, 1))
        return x.mean((2, 3))[0]

    def _unit(self, name: str, x: Tensor, stride: int = 1, *, valid: bool = False) -> Tensor:
        w = {k: _take(self.weights, f"{name}.{k}", "Inception") for k in _UNIT}
        kernel = w["conv.weight"].shape[2:]
        padding = (0, 0) if valid else (kernel[0] // 2, kernel[1] // 2)
        x = F.conv2d(x, w["conv.weight"], None, stride, padding)
        norm = (w["bn.running_mean"], w["bn.running_var"], w["bn.weight"], w["bn.bias"])
        return F.relu(F.batch_norm(x, *norm, eps=0.001))

    def _chain(self, block: str, names: str, x: Tensor) -> Tensor:
        for name in names.split():
            x = self._unit(f"{block}.{name}", x)
        return x

    def _stem(self, x: Tensor) -> Tensor:
        x = self._unit("Conv2d_1a_3x3", x, 2, valid=True)
        x = self._unit("Conv2d_2a_3x3", x, valid=True)
        x = F.max_pool2d(self._unit("Conv2d_2b_3x3", x), 3, 2)
        x = self._unit("Conv2d_4a_3x3", self._unit("Conv2d_3b_1x1", x), valid=True)
        return F.max_pool2d(x, 3, 2)

    def _block_a(self, b: str, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self._chain(b, "branch1x1", x),
                self._chain(b, "branch5x5_1 branch5x5_2", x),
                self._chain(b, "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3", x),
                self._chain(b, "branch_pool", _mean_pool(x)),
            ],
            dim=1,
        )

    def _block_b(self, b: str, x: Tensor) -> Tensor:
        double = self._chain(b, "branch3x3dbl_1 branch3x3dbl_2", x)
        return torch.cat(
            [
                self._unit(f"{b}.branch3x3", x, 2, valid=True),
                self._unit(f"{b}.branch3x3dbl_3", double, 2, valid=True),
                F.max_pool2d(x, 3, 2),
            ],
            dim=1,
        )

    def _block_c(self, b: str, x: Tensor) -> Tensor:
        double = " ".join(f"branch7x7dbl_{i}" for i in range(1, 6))
        return torch.cat(
            [
                self._chain(b, "branch1x1", x),
                self._chain(b, "branch7x7_1 branch7x7_2 branch7x7_3", x),
                self._chain(b, double, x),
                self._chain(b, "branch_pool", _mean_pool(x)),
            ],
            dim=1,
        )

    def _block_d(self, b: str, x: Tensor) -> Tensor:
        square = self._chain(b, "branch3x3_1", x)
        crossed = self._chain(b, "branch7x7x3_1 branch7x7x3_2 branch7x7x3_3", x)
        return torch.cat(
            [
                self._unit(f"{b}.branch3x3_2", square, 2, valid=True),
                self._unit(f"{b}.branch7x7x3_4", crossed, 2, valid=True),
                F.max_pool2d(x, 3, 2),
            ],
            dim=1,
        )

    def _block_e(self, b: str, x: Tensor, pooled: Tensor) -> Tensor:
        single = self._chain(b, "branch3x3_1", x)
        double = self._chain(b, "branch3x3dbl_1 branch3x3dbl_2", x)
        return torch.cat(
            [
                self._chain(b, "branch1x1", x),
                *(self._chain(b, f"branch3x3_{i}", single) for i in ("2a", "2b")),
                *(self._chain(b, f"branch3x3dbl_{i}", double) for i in ("3a", "3b")),
                self._chain(b, "branch_pool", pooled),
            ],
            dim=1,
        )


_UNIT = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def _mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def frechet_distance(a: Float[Tensor, "n p"], b: Float[Tensor, "m p"]) -> float:
    """FID of two sets of features: |μ_a − μ_b|² + tr(C_a + C_b − 2·(C_a·C_b)^½), covariances unbiased.

    The trace of the root is the sum of the square roots of the eigenvalues of C_a^½·C_b·C_a^½, which are
    real and not negative, so no complex numbers need to be thrown away. NaN if a feature is not finite.

    Raises:
        DataError: if a set has fewer than two photos.
    """
    if min(len(a), len(b)) < 2:
        raise DataError(
            f"FID compares sets; there are {len(a)} and {len(b)} photos, expected at least 2 each"
        )
    a, b = a.double(), b.double()
    if not all(bool(x.isfinite().all()) for x in (a, b)):
        return math.nan
    cov_a, cov_b = (torch.cov(x.T) for x in (a, b))
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return float(shift + cov_a.trace() + cov_b.trace() - 2 * cross)


def lpips(net: str, folder: Path | None = None, device: str | torch.device = "cpu") -> LPIPS:
    """Open LPIPS with `alex` or `vgg`; MissingWeightsError if a file is not there."""
    backbone = "alexnet" if net == "alex" else "vgg16"
    return LPIPS(read_weights(backbone, folder, device), read_weights(f"lpips_{net}", folder, device), net)


def lpips_alex(folder: Path | None = None, device: str | torch.device = "cpu") -> LPIPS:
    """LPIPS over AlexNet; see `lpips`."""
    return lpips("alex", folder, device)


def lpips_vgg(folder: Path | None = None, device: str | torch.device = "cpu") -> LPIPS:
    """LPIPS over VGG-16; see `lpips`."""
    return lpips("vgg", folder, device)


def dists(folder: Path | None = None, device: str | torch.device = "cpu") -> DISTS:
    """Open DISTS; MissingWeightsError if a file is not there."""
    return DISTS(read_weights("vgg16", folder, device), read_weights("dists", folder, device))


def stlpips(folder: Path | None = None, device: str | torch.device = "cpu") -> STLPIPS:
    """Open ST-LPIPS; MissingWeightsError if its file is not there."""
    network = ShiftTolerantAlexNet()
    network.take(read_weights("stlpips", folder), "ST-LPIPS")
    return STLPIPS(network.to(device))


def inception(folder: Path | None = None, device: str | torch.device = "cpu") -> Inception:
    """Open FID's Inception; MissingWeightsError if its file is not there."""
    return Inception(read_weights("inception", folder, device))
