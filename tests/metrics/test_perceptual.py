"""LPIPS, DISTS and FID: the published networks, from files in the published form.

The expected numbers are computed here with layers of torch.nn put together as the publications have them;
the weights are small and random, the files and keys are the real ones.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor, nn

from dirformer.ground.errors import CheckpointError, DataError
from dirformer.metrics import perceptual
from dirformer.metrics.perceptual import MissingWeightsError, frechet_distance


def vgg16(widths: tuple[int, ...] = (4, 5, 6, 7, 8)) -> nn.Sequential:
    """torchvision's `features` layout: numbers of the layers as in the published file."""
    layers: list[nn.Module] = []
    channels = 3
    for width, count in zip(widths, (2, 2, 3, 3, 3), strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def alexnet(widths: tuple[int, ...] = (4, 6, 8, 6, 5)) -> nn.Sequential:
    a, b, c, d, e = widths
    return nn.Sequential(
        nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(b, c, 3, padding=1), nn.ReLU(),
        nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
        nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip


BACKBONES = {
    "alex": (alexnet, "alexnet-owt-7be5be79.pth", (1, 4, 7, 9, 11)),
    "vgg": (vgg16, "vgg16-397923af.pth", (3, 8, 15, 22, 29)),
}


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    gt = torch.nn.functional.interpolate(
        torch.rand(1, 3, 9, 12, generator=generator), (70, 96), mode="bicubic"
    )
    gt = gt[0].clamp(0, 1)
    return (gt + 0.1 * torch.randn(gt.shape, generator=generator)).clamp(0, 1), gt


def save_backbone(folder: Path, net: str) -> nn.Sequential:
    torch.manual_seed(7)
    build, name, _ = BACKBONES[net]
    model = build()
    torch.save(OrderedDict((f"features.{k}", v) for k, v in model.state_dict().items()), folder / name)
    return model


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_equals_its_definition(tmp_path: Path, pair: tuple[Tensor, Tensor], net: str) -> None:
    """Distance of unit-length features, weighted, averaged over places, summed over layers."""
    model = save_backbone(tmp_path, net)
    taps = BACKBONES[net][2]
    means, deviations = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ((-0.03, -0.088, -0.188), (0.458, 0.448, 0.45))
    )
    maps = []
    with torch.no_grad():
        for photo in pair:
            x, found = ((photo[None] * 2 - 1) - means) / deviations, []
            for number, layer in enumerate(model):
                x = layer(x)
                if number in taps:
                    found.append(nn.functional.normalize(x, dim=1, eps=1e-10))
            maps.append(found)
    heads, expected = OrderedDict(), 0.0
    for number, (a, b) in enumerate(zip(*maps, strict=True)):
        weight = torch.rand(a.shape[1])
        heads[f"lin{number}.model.1.weight"] = weight.view(1, -1, 1, 1)
        expected += float(((a - b) ** 2 * weight.view(1, -1, 1, 1)).sum(1).mean())
    torch.save(heads, tmp_path / f"lpips_{net}.pth")
    metric = perceptual.lpips(net, tmp_path)
    assert expected == pytest.approx(metric(*pair), rel=1e-5)
    assert metric(pair[0], pair[0]) == 0


def test_dists_equals_its_definition(tmp_path: Path, pair: tuple[Tensor, Tensor]) -> None:
    """Structure and texture terms of the photo and five stages, Hann pooling on squares, in float64."""
    model = save_backbone(tmp_path, "vgg").double()
    channels = 3 + 4 + 5 + 6 + 7 + 8
    mixture = {name: torch.rand(1, channels, 1, 1) for name in ("alpha", "beta")}
    torch.save(mixture, tmp_path / "dists.pt")
    hann = np.hanning(5)[1:-1]
    window = torch.from_numpy(np.outer(hann, hann) / np.outer(hann, hann).sum())
    maps = []
    with torch.no_grad():
        for photo in pair:
            x = photo[None].double()
            found = [x]
            x = (x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
                [0.229, 0.224, 0.225]
            ).view(1, 3, 1, 1)
            for layer in model:
                if isinstance(layer, nn.MaxPool2d):
                    found.append(x)
                    planes = (x**2).transpose(0, 1)
                    x = nn.functional.conv2d(planes, window[None, None], stride=2, padding=1).transpose(0, 1)
                    x = (x + 1e-12).sqrt()
                else:
                    x = layer(x)
            maps.append(found)
    alpha, beta = (mixture[name].double().flatten() for name in ("alpha", "beta"))
    total, value, start = (alpha.sum() + beta.sum()), 0.0, 0
    for a, b in zip(*maps, strict=True):
        for channel in range(a.shape[1]):
            x, y = a[0, channel].numpy().ravel(), b[0, channel].numpy().ravel()
            s1 = (2 * x.mean() * y.mean() + 1e-6) / (x.mean() ** 2 + y.mean() ** 2 + 1e-6)
            s2 = (2 * ((x * y).mean() - x.mean() * y.mean()) + 1e-6) / (x.var() + y.var() + 1e-6)
            value += float(alpha[start] / total) * s1 + float(beta[start] / total) * s2
            start += 1
    metric = perceptual.dists(tmp_path)
    assert 1 - value == pytest.approx(metric(*pair), abs=1e-5)
    assert metric(pair[1], pair[1]) == pytest.approx(0, abs=1e-6)


class Unit(nn.Module):
    def __init__(
        self, c_in: int, c_out: int, kernel: int | tuple[int, int], stride: int = 1, padding=0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches of units by their published names; `plan` says how they are put together."""

    def __init__(self, units: dict[str, Unit], plan: list[object]) -> None:
        super().__init__()
        for name, unit in units.items():
            setattr(self, name, unit)
        self.plan = plan

    def run(self, step: object, x: Tensor) -> Tensor:
        if isinstance(step, nn.Module):
            return step(x)
        if isinstance(step, str):
            return getattr(self, step)(x)
        if isinstance(step, tuple):  # side by side
            return torch.cat([self.run(s, x) for s in step], 1)
        for part in step:  # one after the other
            x = self.run(part, x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.run(step, x) for step in self.plan], 1)


def inception(w: int = 2) -> nn.Sequential:
    """Inception-v3 of FID with `w` channels per unit."""
    mean, largest = nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.MaxPool2d(3, 2)
    row, column = {"padding": (0, 3)}, {"padding": (3, 0)}

    def a(c: int) -> Block:
        units = {
            "branch1x1": Unit(c, w, 1), "branch5x5_1": Unit(c, w, 1), "branch5x5_2": Unit(w, w, 5, padding=2),
            "branch3x3dbl_1": Unit(c, w, 1), "branch3x3dbl_2": Unit(w, w, 3, padding=1),
            "branch3x3dbl_3": Unit(w, w, 3, padding=1), "branch_pool": Unit(c, w, 1),
        }  # fmt: skip
        double = ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]
        return Block(units, ["branch1x1", ["branch5x5_1", "branch5x5_2"], double, [mean, "branch_pool"]])

    def b(c: int) -> Block:
        units = {
            "branch3x3": Unit(c, w, 3, 2), "branch3x3dbl_1": Unit(c, w, 1),
            "branch3x3dbl_2": Unit(w, w, 3, padding=1), "branch3x3dbl_3": Unit(w, w, 3, 2),
        }  # fmt: skip
        return Block(units, ["branch3x3", ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], largest])

    def c(c: int) -> Block:
        units = {
            "branch1x1": Unit(c, w, 1), "branch7x7_1": Unit(c, w, 1),
            "branch7x7_2": Unit(w, w, (1, 7), **row),
            "branch7x7_3": Unit(w, w, (7, 1), **column), "branch7x7dbl_1": Unit(c, w, 1),
            "branch7x7dbl_2": Unit(w, w, (7, 1), **column), "branch7x7dbl_3": Unit(w, w, (1, 7), **row),
            "branch7x7dbl_4": Unit(w, w, (7, 1), **column), "branch7x7dbl_5": Unit(w, w, (1, 7), **row),
            "branch_pool": Unit(c, w, 1),
        }  # fmt: skip
        double = [f"branch7x7dbl_{i}" for i in range(1, 6)]
        single = ["branch7x7_1", "branch7x7_2", "branch7x7_3"]
        return Block(units, ["branch1x1", single, double, [mean, "branch_pool"]])

    def d(c: int) -> Block:
        units = {
            "branch3x3_1": Unit(c, w, 1), "branch3x3_2": Unit(w, w, 3, 2), "branch7x7x3_1": Unit(c, w, 1),
            "branch7x7x3_2": Unit(w, w, (1, 7), **row), "branch7x7x3_3": Unit(w, w, (7, 1), **column),
            "branch7x7x3_4": Unit(w, w, 3, 2),
        }  # fmt: skip
        crossed = [f"branch7x7x3_{i}" for i in range(1, 5)]
        return Block(units, [["branch3x3_1", "branch3x3_2"], crossed, largest])

    def e(c: int, pool: nn.Module) -> Block:
        wide, tall = {"padding": (0, 1)}, {"padding": (1, 0)}
        units = {
            "branch1x1": Unit(c, w, 1), "branch3x3_1": Unit(c, w, 1),
            "branch3x3_2a": Unit(w, w, (1, 3), **wide),
            "branch3x3_2b": Unit(w, w, (3, 1), **tall), "branch3x3dbl_1": Unit(c, w, 1),
            "branch3x3dbl_2": Unit(w, w, 3, padding=1), "branch3x3dbl_3a": Unit(w, w, (1, 3), **wide),
            "branch3x3dbl_3b": Unit(w, w, (3, 1), **tall), "branch_pool": Unit(c, w, 1),
        }  # fmt: skip
        single = ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")]
        double = ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")]
        return Block(units, ["branch1x1", single, double, [pool, "branch_pool"]])

    return nn.Sequential(
        OrderedDict(
            Conv2d_1a_3x3=Unit(3, w, 3, 2), Conv2d_2a_3x3=Unit(w, w, 3),
            Conv2d_2b_3x3=Unit(w, w, 3, padding=1),
            pool1=nn.MaxPool2d(3, 2), Conv2d_3b_1x1=Unit(w, w, 1), Conv2d_4a_3x3=Unit(w, w, 3),
            pool2=nn.MaxPool2d(3, 2),
            Mixed_5b=a(w), Mixed_5c=a(4 * w), Mixed_5d=a(4 * w), Mixed_6a=b(4 * w), Mixed_6b=c(6 * w),
            Mixed_6c=c(4 * w), Mixed_6d=c(4 * w), Mixed_6e=c(4 * w), Mixed_7a=d(4 * w),
            Mixed_7b=e(6 * w, mean), Mixed_7c=e(6 * w, nn.MaxPool2d(3, 1, 1)),
        )
    )  # fmt: skip


def test_inception_equals_its_definition(tmp_path: Path, pair: tuple[Tensor, Tensor]) -> None:
    """Features of FID's Inception, from a file with its keys; the classifier's keys do not disturb."""
    torch.manual_seed(2)
    model = inception().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.bias, 0, 0.5)
    state = dict(model.state_dict()) | {"fc.weight": torch.zeros(3, 12)}
    torch.save(state, tmp_path / "pt_inception-2015-12-05-6726825d.pth")
    x = nn.functional.interpolate(pair[0][None], size=(299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = model(2 * x - 1).mean((2, 3))[0]
    found = perceptual.inception(tmp_path)(pair[0])
    assert expected.std() > 1e-4
    torch.testing.assert_close(expected, found, rtol=1e-5, atol=1e-6)


def test_fid_of_a_set_against_itself_is_zero() -> None:
    """The distance of equal sets vanishes, also with fewer photos than features."""
    features = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    assert abs(frechet_distance(features, features)) < 1e-3


def test_fid_of_gaussians_equals_the_closed_form() -> None:
    """Sets with exactly known moments: |shift|² + Σ(σ_a − σ_b)² where the axes are shared."""
    generator = torch.Generator().manual_seed(2)
    white = torch.randn(500, 6, generator=generator, dtype=torch.float64)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(white.T))).T
    scale_a, scale_b = torch.linspace(0.5, 2, 6).double(), torch.linspace(3, 1, 6).double()
    shift = torch.linspace(-1, 2, 6).double()
    expected = float((shift**2).sum() + ((scale_a - scale_b) ** 2).sum())
    assert expected == pytest.approx(frechet_distance(white * scale_a, white * scale_b + shift), abs=1e-9)


def test_fid_equals_the_published_computation() -> None:
    """np.cov and scipy's sqrtm, as in the published scripts, on correlated features."""
    generator = np.random.default_rng(3)
    a = generator.normal(size=(300, 8)) @ generator.normal(size=(8, 8))
    b = generator.normal(size=(280, 8)) @ generator.normal(size=(8, 8)) + 0.3
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert expected == pytest.approx(frechet_distance(torch.from_numpy(a), torch.from_numpy(b)), rel=1e-6)


def test_fid_needs_sets() -> None:
    """One photo is not a set."""
    with pytest.raises(DataError, match="at least 2"):
        frechet_distance(torch.zeros(1, 4), torch.zeros(3, 4))


def test_missing_weights_say_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's published name and the folder, in one line; the folder can come from the environment."""
    monkeypatch.setenv("DIRFORMER_METRIC_WEIGHTS", str(tmp_path))
    with pytest.raises(
        MissingWeightsError, match=r"vgg16-397923af\.pth .* is not there; put it into .*"
    ) as caught:
        perceptual.dists()
    assert str(tmp_path) in str(caught.value)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    """A file that is not the published one is an error, not a missing file; nothing in it is executed."""
    torch.save({"other": torch.zeros(1)}, tmp_path / "vgg16-397923af.pth")
    torch.save({"alpha": torch.zeros(1), "beta": torch.zeros(1)}, tmp_path / "dists.pt")
    with pytest.raises(CheckpointError, match=r"lack features\.0\.weight"):
        perceptual.dists(tmp_path)(torch.zeros(3, 32, 32), torch.zeros(3, 32, 32))


class Bomb:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


def test_nothing_in_a_weight_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pickle that calls a function does not get to call it."""
    torch.save({"features.0.weight": torch.zeros(1), "x": Bomb()}, tmp_path / "vgg16-397923af.pth")
    perceptual.read_weights("vgg16", tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_st_lpips_is_its_published_network(tmp_path: Path, pair: tuple[Tensor, Tensor]) -> None:
    """The distance is that of the published layers and heads, put together here from torch.nn."""
    torch.manual_seed(0)
    shapes = ((3, 64, 11, 2), (64, 192, 5, 2), (192, 384, 3, 1), (384, 256, 3, 1), (256, 256, 3, 1))
    convs = [nn.Conv2d(i, o, k, padding=p) for i, o, k, p in shapes]
    heads = [nn.Conv2d(o, 1, 1, bias=False) for _, o, _, _ in shapes]
    names = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
    parts = zip(names, convs, strict=True)
    state = {f"net.{n}.{k}": v for n, conv in parts for k, v in conv.state_dict().items()}
    state |= {f"lin{i}.model.1.weight": head.weight for i, head in enumerate(heads)}
    torch.save(OrderedDict(state), tmp_path / "alex_shift_tolerant.pth")

    def halve(x: Tensor) -> Tensor:
        binomial = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
        layers = nn.ReflectionPad2d(2), nn.Conv2d(x.shape[1], x.shape[1], 3, 2, groups=x.shape[1], bias=False)
        layers[1].weight.data[:] = binomial
        return nn.Sequential(*layers)(x)

    def maps(x: Tensor) -> list[Tensor]:
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = ((2 * x - 1 - shift.view(3, 1, 1)) / scale.view(3, 1, 1))[None]
        one = halve(convs[0](x)).relu()
        two = convs[1](halve(nn.MaxPool2d(3, 1)(one))).relu()
        three = convs[2](halve(nn.MaxPool2d(3, 1)(two))).relu()
        four = convs[3](three).relu()
        return [one, two, three, four, convs[4](four).relu()]

    result, gt = pair
    with torch.no_grad():
        expected = sum(
            float(head((nn.functional.normalize(a) - nn.functional.normalize(b)) ** 2).mean())
            for head, a, b in zip(heads, maps(result), maps(gt), strict=True)
        )
    metric = perceptual.stlpips(tmp_path)
    assert metric(result, gt) == pytest.approx(expected, rel=1e-4)
    assert metric(gt, gt) == 0
    del state["lin4.model.1.weight"]
    torch.save(OrderedDict(state), tmp_path / "alex_shift_tolerant.pth")
    with pytest.raises(CheckpointError, match=r"lacks lin4.model.1.weight"):
        perceptual.stlpips(tmp_path)
