"""Losses equal their formulas, written out independently."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio
from torch import nn

from dirformer.ground.errors import CheckpointError
from dirformer.networks.discriminators import PatchDiscriminator, UNetDiscriminator
from dirformer.networks.features import VGG19_LAYERS, VGG19_WIDTHS, DilatedResNet50, VGG19Features
from dirformer.training import losses


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_masked_l1_by_hand() -> None:
    """Known pixels count ten times, holes not at all, and the mean is over everything."""
    restored, gt, mask = (
        torch.zeros(1, 3, 1, 2),
        torch.tensor([1.0, 2.0]).expand(1, 3, 1, 2),
        torch.zeros(1, 1, 1, 2),
    )
    mask[..., 1] = 1
    assert float(losses.masked_l1(restored, gt, mask)) == pytest.approx(10 * 1 / 2)
    assert float(losses.masked_l1(restored, gt, mask, known=1.0, hole=3.0)) == pytest.approx((1 + 3 * 2) / 2)


def test_negative_psnr_is_the_mean_of_the_field_s_psnr() -> None:
    """As scikit-image computes it for each photo; a mask weights squared errors."""
    gt = torch.rand(3, 3, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    restored = gt + 0.1 * random(3, 3, 6, 5)
    each = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(gt, restored, strict=True)
    ]
    assert float(losses.negative_psnr(restored, gt)) == pytest.approx(-np.mean(each), rel=1e-6)

    mask = torch.zeros(3, 1, 6, 5, dtype=torch.float64)
    mask[0, :, :2], mask[1, :, :, 3:] = 1, 1
    holes = [
        peak_signal_noise_ratio(a[:, m[0] > 0].numpy(), b[:, m[0] > 0].numpy(), data_range=1)
        for a, b, m in zip(gt[:2], restored[:2], mask[:2], strict=True)
    ]
    assert float(losses.negative_psnr(restored, gt, mask, 0.0, 6.0)) == pytest.approx(
        -sum(holes) / 3, rel=1e-6
    )
    perfect = restored.requires_grad_()
    losses.negative_psnr(perfect, perfect.detach(), mask, 1.0, 1.0).backward()
    assert perfect.grad is not None and torch.isfinite(perfect.grad).all()


def test_a_floor_ends_the_scale_of_psnr() -> None:
    """With a floor of 1e-4 a perfect sample has 40 dB, and slopes follow the formula."""
    gt = torch.full((1, 3, 4, 4), 0.5)
    assert float(losses.negative_psnr(gt, gt, floor=1e-4)) == pytest.approx(-40, abs=1e-4)
    slopes = []
    for error in (0.001, 0.1):
        restored = (gt + error).requires_grad_()
        losses.negative_psnr(restored, gt, floor=1e-4).backward()
        assert restored.grad is not None
        slopes.append(float(restored.grad.sum()))
    # 10 · log10(e² + f) has the slope 20 · e / (e² + f) / ln 10.
    expected = [20 * e / (e * e + 1e-4) / np.log(10) for e in (0.001, 0.1)]
    assert slopes == pytest.approx(expected, rel=1e-4)


def test_prior_losses_by_formula() -> None:
    """Eqs. 13 to 15, computed with plain numbers; the target gets no gradient."""
    z, e = random(2, 5), random(2, 5, seed=1)
    assert float(losses.prior_l1(e, z)) == pytest.approx(np.abs((e - z).numpy()).mean())
    assert float(losses.prior_l2(e, z)) == pytest.approx(((e - z) ** 2).numpy().mean())
    expected = 0.0
    for zi, ei in zip(z.tolist(), e.tolist(), strict=True):
        p, q = ([math.exp(x) for x in row] for row in (zi, ei))
        p, q = ([x / sum(row) for x in row] for row in (p, q))
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 2
    assert float(losses.prior_kl(e, z)) == pytest.approx(expected)
    for loss in losses.PRIOR_LOSSES.values():
        target = z.clone().requires_grad_()
        loss(e.clone().requires_grad_(), target).backward()
        assert target.grad is None


@pytest.mark.parametrize("entry", ["sr_x4_s2", "inpainting_s2", "realsr_x1_s2"])
def test_released_prior_losses(shared: Path, entry: str) -> None:
    """The released L1 and KL (temperature 0.15) on the released IPR and estimate come out."""
    tensors = load_file(shared / "reference" / "released_small.safetensors")
    aliases = json.loads((shared / "reference" / "released_small.json").read_text())["aliases"]

    def get(name: str) -> torch.Tensor:
        key = f"{entry}/outputs/{name}"
        return tensors[aliases.get(key, key)].float()

    prior, estimate = get("ipr_s1"), get("train_z_steps")[-1]
    assert float(losses.prior_l1(estimate, prior)) == pytest.approx(float(get("train_l_abs")), rel=1e-5)
    assert float(losses.prior_kl(estimate, prior, 0.15)) == pytest.approx(float(get("train_l_kd")), rel=1e-4)


def test_vanilla_gan_is_binary_cross_entropy() -> None:
    """Both sides equal PyTorch's own cross-entropy on logits with labels 1 and 0."""
    real, fake = random(2, 1, 3, 3), random(2, 1, 3, 3, seed=1)
    bce = nn.functional.binary_cross_entropy_with_logits
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    assert float(losses.vanilla_generator(fake)) == pytest.approx(float(bce(fake, one)))
    expected = float(bce(real, one) + bce(fake, zero))
    assert float(losses.vanilla_discriminator(real, fake)) == pytest.approx(expected)


def test_relativistic_gan_by_its_formula() -> None:
    """ESRGAN's Eqs. 1 and 2 with logarithms of the sigmoid, each side the half of two cross-entropies."""
    real, fake = random(2, 1, 3, 4), random(2, 1, 3, 4, seed=1)

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    r, f = real.numpy(), fake.numpy()
    more_real, less_real = sigmoid(r - f.mean()), sigmoid(f - r.mean())
    discriminator = -(np.log(more_real).mean() + np.log(1 - less_real).mean()) / 2
    generator = -(np.log(1 - more_real).mean() + np.log(less_real).mean()) / 2
    assert float(losses.relativistic_discriminator(real, fake)) == pytest.approx(discriminator, rel=1e-12)
    assert float(losses.relativistic_generator(real, fake)) == pytest.approx(generator, rel=1e-12)


@pytest.mark.parametrize(
    ("layers", "weights"),
    [("conv5_4", {34: 1.0}), ("five", {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0})],
)
def test_perceptual_layers_of_esrgan_and_of_real_esrgan(layers: str, weights: dict[int, float]) -> None:
    """ESRGAN compares conv5_4 before its ReLU alone, Real-ESRGAN five maps: layer by layer, counted here."""
    torch.manual_seed(0)
    features = VGG19Features(tuple(4 if w else 0 for w in VGG19_WIDTHS)).eval()
    restored, gt = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    x, y = (features.normalised(photo) for photo in (restored, gt))
    expected = 0.0
    with torch.no_grad():
        for number, layer in enumerate(features.features):
            x, y = layer(x), layer(y)
            expected += weights.get(number, 0.0) * float((x - y).abs().mean())
        got = losses.vgg_perceptual(features, restored, gt, losses.PERCEPTUAL_LAYERS[layers])
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_r1_penalty_by_finite_differences() -> None:
    """The R1 term is the squared slope of the summed logits, checked by small steps along the gradient."""
    torch.manual_seed(0)
    net = PatchDiscriminator(dim=2, layers=2).double().eval()
    gt, fake, mask = random(2, 3, 16, 16), random(2, 3, 16, 16, seed=1), torch.zeros(2, 1, 16, 16).double()
    with_penalty = losses.r1_discriminator(net, gt, fake, mask, penalty=1.0)
    without = losses.r1_discriminator(net, gt, fake, mask, penalty=0.0)
    squared = 0.0
    with torch.no_grad():
        for b in range(2):
            for index in range(gt[b].numel()):
                step = torch.zeros_like(gt)
                step[b].view(-1)[index] = 1e-5
                squared += float((net(gt + step).sum() - net(gt - step).sum()) / 2e-5) ** 2 / 2
    assert float((with_penalty - without).detach()) == pytest.approx(squared, rel=1e-5)
    # With no hole, everything restored counts as real.
    expected = nn.functional.softplus(-net(gt)).mean() + nn.functional.softplus(-net(fake)).mean()
    assert float(without.detach()) == pytest.approx(float(expected.detach()))


def test_feature_matching_leaves_the_logits_out() -> None:
    """The mean of the layers' squared differences; the last entry does not count."""
    ours, target = (
        [torch.zeros(1, 1, 2, 2)] * 3,
        [torch.ones(1, 1, 2, 2), 2 * torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)],
    )
    assert float(losses.feature_matching(ours, target)) == pytest.approx((1 + 4) / 2)


def test_patch_discriminator_has_the_released_layout() -> None:
    """LaMa's layer widths, strides and parameter count: 4×4 convolutions 3-64-128-256-512-512-1."""
    widths = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 512), (512, 1)]
    convolutions = sum(16 * a * b + b for a, b in widths)
    norms = 2 * (128 + 256 + 512 + 512)
    net = PatchDiscriminator()
    assert sum(p.numel() for p in net.parameters()) == convolutions + norms
    sizes = [tuple(f.shape[2:]) for f in net.eval().features(torch.zeros(1, 3, 64, 64))]
    assert sizes == [(33, 33), (17, 17), (9, 9), (5, 5), (6, 6), (7, 7)]


def test_unet_discriminator_has_the_released_size() -> None:
    """Real-ESRGAN's published U-Net discriminator has 4,376,897 parameters; one logit per pixel."""
    net = UNetDiscriminator()
    assert sum(p.numel() for p in net.parameters()) == 4_376_897
    assert net(torch.zeros(1, 3, 16, 24)).shape == (1, 1, 16, 24)


def vgg_file(widths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Random weights under the keys of the published file, its classifier included."""
    generator = torch.Generator().manual_seed(0)
    tensors, channels, index = {}, 3, 0
    for width in widths:
        if width:
            tensors[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3, generator=generator) / 4
            tensors[f"features.{index}.bias"] = torch.randn(width, generator=generator)
            channels, index = width, index + 2
        else:
            index += 1
    return tensors | {"classifier.0.weight": torch.zeros(2, 2)}


SMALL_VGG = (2, 2, 0, 2, 2, 0, 3, 3, 3, 3, 0, 3, 3, 3, 3, 0, 3, 3, 3, 3)


def test_vgg_features_take_the_published_layout() -> None:
    """Keys of the published file fit; the five maps are those before ReLU, computed layer by layer."""
    net, tensors = VGG19Features(SMALL_VGG), vgg_file(SMALL_VGG)
    net.take(tensors, "vgg19.pth")
    photo = torch.rand(1, 3, 32, 32)
    x = (photo - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    expected, index = {}, 0
    for width in SMALL_VGG:
        if not width:
            x, index = nn.functional.max_pool2d(x, 2), index + 1
            continue
        x = nn.functional.conv2d(
            x, tensors[f"features.{index}.weight"], tensors[f"features.{index}.bias"], padding=1
        )
        expected[index] = x
        x, index = x.relu(), index + 2
    maps = net(photo)
    for name, place in VGG19_LAYERS.items():
        torch.testing.assert_close(maps[name], expected[place])
    other = torch.rand(1, 3, 32, 32)
    theirs = net(other)
    weighted = sum(w * float((maps[n] - theirs[n]).abs().mean()) for n, w in losses.VGG19_WEIGHTS.items())
    assert float(losses.vgg_perceptual(net, photo, other)) == pytest.approx(weighted, rel=1e-5)


def test_published_vgg_size() -> None:
    """VGG-19's convolutional part has 20,024,384 parameters."""
    with torch.device("meta"):
        assert sum(p.numel() for p in VGG19Features().parameters()) == 20_024_384


def test_wrong_feature_files_are_named() -> None:
    """A missing key and a wrong shape are said with the file's name."""
    net, tensors = VGG19Features(SMALL_VGG), vgg_file(SMALL_VGG)
    with pytest.raises(CheckpointError, match=r"w.pth has another shape for features.0.weight"):
        net.take(tensors | {"features.0.weight": torch.zeros(1)}, "w.pth")
    del tensors["features.34.bias"]
    with pytest.raises(CheckpointError, match=r"w.pth lacks features.34.bias"):
        net.take(tensors, "w.pth")


def test_dilated_resnet_keeps_its_resolution() -> None:
    """Maps at 1/4, 1/8, 1/8, 1/8 of the size, 256 to 2048 channels; the encoder has 23,527,232 parameters."""
    with torch.device("meta"):
        full = DilatedResNet50()
        # ResNet-50 without classifier has 23,508,032; the stem of three 3×3 replaces one 7×7 of 64.
        stem = 27 * 64 + 9 * 64 * 64 + 9 * 64 * 128 + 2 * (64 + 64 + 128)
        wider = 64 * (64 + 256)  # the first block and its shortcut see 128 channels instead of 64
        assert sum(p.numel() for p in full.parameters()) == 23_508_032 - (49 * 3 * 64 + 128) + stem + wider
    net = DilatedResNet50(dim=2, blocks=(1, 2, 2, 2))
    net.take(net.state_dict(), "encoder.pth")
    assert [tuple(m.shape[1:]) for m in net(torch.rand(1, 3, 64, 64))] == [
        (8, 16, 16),
        (16, 8, 8),
        (32, 8, 8),
        (64, 8, 8),
    ]
    assert not net.train().training
    a, b = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    expected = sum(float((x - y).square().mean()) for x, y in zip(net(a), net(b), strict=True))
    assert float(losses.resnet_perceptual(net, a, b)) == pytest.approx(expected, rel=1e-5)
