"""Frozen feature extractors of the perceptual losses, built to take their published weight files.

The weights themselves are not shipped: VGG-19's ImageNet file (`vgg19-*.pth`, keys `features.N.weight`) and
the encoder of the ADE20K segmentation network (`encoder_epoch_20.pth`, keys `layer1.0.conv1.weight` …).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dirformer.ground.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

VGG19_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)
"""Output channels of VGG-19's convolutions up to conv5_4; 0 is a pooling."""
VGG19_LAYERS = {"conv1_2": 2, "conv2_2": 7, "conv3_4": 16, "conv4_4": 25, "conv5_4": 34}
"""Index in `features` of the convolutions whose outputs, before ReLU, are compared."""


class _Frozen(nn.Module):
    """Evaluation mode for ever, no gradients to weights, ImageNet normalisation in front."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", IMAGENET_MEAN), ("deviation", IMAGENET_DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def take(self, tensors: dict[str, Tensor], source: str) -> None:
        """Fill in published weights; keys of other parts (classifier, last layers) are left out."""
        expected = self.state_dict()
        for key, value in expected.items():
            if key not in tensors:
                raise CheckpointError(
                    f"{source} lacks {key}; expected the published file of {type(self).__name__}"
                )
            if tensors[key].shape != value.shape:
                raise CheckpointError(f"{source} has another shape for {key}: {tuple(tensors[key].shape)}")
        self.load_state_dict({key: tensors[key] for key in expected})
        self.eval().requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> _Frozen:
        """Stay in evaluation mode: batch norms must not move."""
        del mode
        return super().train(mode=False)

    def normalised(self, photo: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Shift and scale as the weights were trained."""
        return (photo - self.mean) / self.deviation


class VGG19Features(_Frozen):
    """Five maps of VGG-19 before their ReLU: the perceptual loss of ESRGAN and its heirs."""

    def __init__(self, widths: tuple[int, ...] = VGG19_WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])

    def forward(self, photo: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        names = {index: name for name, index in VGG19_LAYERS.items()}
        x, outputs = self.normalised(photo), {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in names:
                outputs[names[index]] = x
        return outputs


class ShiftTolerantAlexNet(nn.Module):
    """ST-LPIPS (Ghildyal & Liu, ECCV 2022): perceptual distance that a small shift does not upset.

    AlexNet with stride 1 and binomial reductions instead of strides, trained with its heads on human
    judgements. The weights come with the package stlpips-pytorch (`alex_shift_tolerant.pth`).
    """

    HEADS = (64, 192, 384, 256, 256)
    INSTALLED = ("stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth")
    """The package that brings the weights, and where in it."""
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        shapes = ((3, 64, 11, 2), (64, 192, 5, 2), (192, 384, 3, 1), (384, 256, 3, 1), (256, 256, 3, 1))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, padding=p) for i, o, k, p in shapes)
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in self.HEADS)
        for name, values in (("shift", (-0.030, -0.088, -0.188)), ("scale", (0.458, 0.448, 0.450))):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def take(self, tensors: dict[str, Tensor], source: str) -> None:
        """Fill in the published weights; CheckpointError names what is missing."""
        layers = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
        theirs = {f"net.{layer}.{k}": f"convs.{i}.{k}" for i, layer in enumerate(layers) for k in _PARTS}
        theirs |= {f"lin{i}.model.1.weight": f"heads.{i}.weight" for i in range(5)}
        expected = self.state_dict()
        for key, ours in theirs.items():
            if key not in tensors or tensors[key].shape != expected[ours].shape:
                raise CheckpointError(f"{source} lacks {key}; expected the published alex_shift_tolerant.pth")
        self.load_state_dict({ours: tensors[key].float() for key, ours in theirs.items()})
        self.eval().requires_grad_(requires_grad=False)

    def maps(self, photo: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the five maps of a photo in [0, 1], each pixel's channels of length 1."""
        x, maps = (2 * photo - 1 - self.shift) / self.scale, []
        for number, conv in enumerate(self.convs):
            if number in (1, 2):
                x = _halved(F.max_pool2d(x, 3, 1))
            x = conv(x)
            x = F.relu(_halved(x) if number == 0 else x)
            maps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return maps

    def forward(self, restored: Float[Tensor, "b 3 h w"], gt: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
        """Return the distance of each pair of photos in [0, 1]; 0 for equal ones."""
        pairs = zip(self.heads, self.maps(restored), self.maps(gt), strict=True)
        return torch.stack([head((a - b).square()).mean((1, 2, 3)) for head, a, b in pairs]).sum(0)


_PARTS = ("weight", "bias")


def _halved(x: Tensor) -> Tensor:
    """Smooth by (1 2 1)/4 in both directions, with two mirrored pixels around, and take every other pixel."""
    # Made on the device: a CUDA graph cannot copy a constant from the host.
    row = (2 - torch.arange(-1, 2, dtype=x.dtype, device=x.device).abs()) / 4
    window = (row[:, None] * row).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, [2] * 4, mode="reflect"), window, stride=2, groups=x.shape[1])


class _Bottleneck(nn.Module):
    """ResNet's 1×1, 3×3, 1×1 block."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
            if channels != 4 * width
            else None
        )

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class DilatedResNet50(_Frozen):
    """Four stages of the ADE20K encoder, the last two dilated instead of reduced (LaMa)."""

    def __init__(self, dim: int = 64, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.conv3 = nn.Conv2d(dim, 2 * dim, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * dim)
        channels = 2 * dim
        # In a dilated stage the first block keeps half the dilation: it stood in front of the stride.
        plans = (
            (1, 1, 1),
            (2, 1, 1),
            (1, 1, 2),
            (1, 2, 4),
        )  # stride, dilation of the first block, of the rest
        for stage, (count, (stride, first, rest)) in enumerate(zip(blocks, plans, strict=True)):
            width = dim * 2**stage
            layer = [_Bottleneck(channels, width, stride, first)]
            layer += [_Bottleneck(4 * width, width, 1, rest) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
            channels = 4 * width

    def forward(self, photo: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        x = self.normalised(photo)
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)))
        x, outputs = F.max_pool2d(x, 3, 2, padding=1), []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            outputs.append(x)
        return outputs
