"""Contenders: baselines, networks, and what the spandrel library loads."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dirformer.evaluation import methods
from dirformer.evaluation.methods import find_method, fingerprint
from dirformer.evaluation.run import evaluate
from dirformer.evaluation.samples import restore_alone
from dirformer.ground.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from dirformer.kernels.precision import float32_products
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import DiffIRS1
from dirformer.weights.checkpoints import save
from evaluation.conftest import TINY, save_image, scene

ORACLES = os.environ.get("DIRFORMER_ORACLES", "")
"""A folder with spandrel and torchvision for tests, where the environment itself has none."""


def test_bicubic_is_matlabs(shared: Path) -> None:
    """×4 of a grey photo equals the float64 reference of MATLAB's imresize, rounded behind each pass."""
    values = np.load(shared / "reference" / "image_ops.npz")
    name = next(k for k in values.files if k.startswith("imresize/") and k.endswith("/x4/basicsr"))
    lq = torch.from_numpy(values[name.replace("/x4/basicsr", "/input_u8")])
    lq = (lq[..., None].expand(-1, -1, 3) if lq.ndim == 2 else lq).permute(2, 0, 1).float() / 255
    expected = torch.from_numpy(np.atleast_3d(values[name])).permute(2, 0, 1)
    found = find_method("bicubic").restore(lq, None, 4, 0)
    # Two roundings to 8 bit lie between both.
    assert float((found - expected.clamp(0, 1)).abs().max()) <= 1.6 / 255


def test_bicubic_of_a_ramp() -> None:
    """Inside a straight ramp the cubic is the ramp itself, rounded to 8 bit."""
    lq = (torch.arange(20.0) * 8 / 255).expand(3, 12, 20)
    found = find_method("bicubic").restore(lq, None, 4, 0) * 255
    expected = ((torch.arange(80.0) + 0.5) / 4 - 0.5) * 8
    torch.testing.assert_close(found[0, 24, 16:-16].round(), (expected[16:-16] + 1e-4).round())


def test_lanczos_is_pillows() -> None:
    """Lanczos is Pillow's, on 8-bit values."""
    photo = scene(1, 24, 32)
    lq = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    found = (find_method("lanczos").restore(lq, None, 4, 0) * 255).round().byte()
    expected = Image.fromarray(photo).resize((128, 96), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(expected), found.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", ["telea", "smooth", "exemplar"])
def test_holes_are_filled_from_their_rim(name: str) -> None:
    """In a flat photo the hole takes the colour around it; the rest of the photo stays."""
    lq = torch.full((3, 24, 20), 100 / 255)
    mask = torch.zeros(1, 24, 20)
    mask[:, 8:14, 6:12] = 1
    found = find_method(name).restore(lq * (1 - mask), mask, 1, 0)
    torch.testing.assert_close(found, lq, atol=3 / 255, rtol=0)  # OpenCV truncates
    with pytest.raises(ConfigError, match=f"{name} fills holes"):
        find_method(name).restore(lq, None, 1, 0)


def test_input_repeats_pixels() -> None:
    """The row `input` is the LQ photo itself."""
    lq = torch.rand(3, 5, 6)
    assert torch.equal(lq, find_method("input").restore(lq, None, 1, 0))
    assert torch.equal(lq, find_method("input").restore(lq, None, 3, 0)[:, 1::3, 1::3])


def test_fingerprints_tell_files_apart(tmp_path: Path) -> None:
    """A weight file is known by its content, a baseline by its name."""
    (tmp_path / "a").write_bytes(b"abc")
    assert fingerprint(str(tmp_path / "a")).startswith("ba7816bf")  # SHA-256 of "abc", FIPS 180
    assert fingerprint("bicubic") == "bicubic"


@pytest.mark.skipif(importlib.util.find_spec("spandrel") is not None, reason="spandrel is installed")
def test_spandrel_missing_is_said() -> None:
    """Without spandrel the extra is named."""
    with pytest.raises(MissingExtraError, match=r"dirformer\[spandrel\]"):
        find_method("spandrel:esrgan.pth")


# In a process of its own: torchvision's release for this torch lacks compiled operators here, so their names
# are declared before it is imported, and nothing of that must reach the other tests.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
if sys.argv[3]:
    sys.path.append(sys.argv[3])
try:
    import torchvision
except (ImportError, RuntimeError):
    sys.modules.pop("torchvision", None)
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
        tensors = "Tensor a, Tensor b, float c" if name.endswith("nms") else "Tensor a"
        library.define(f"{name}({tensors}) -> Tensor")
        if not name.endswith("nms"):
            library.define(f"_{name}_backward(Tensor a) -> Tensor")
try:
    import spandrel
except ImportError as error:
    print(json.dumps({"skip": str(error)}))
    raise SystemExit
from dirformer.evaluation.run import evaluate
torch.manual_seed(0)
state = {}
def conv(name, c_in, c_out, k=3):
    state[f"{name}.weight"] = torch.randn(c_out, c_in, k, k) * 0.02
    state[f"{name}.bias"] = torch.zeros(c_out)
features, growth = 8, 32
conv("conv_first", 3, features)
for block in range(1, 4):
    for i in range(1, 6):
        conv(f"body.0.rdb{block}.conv{i}", features + (i - 1) * growth, growth if i < 5 else features)
for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
    conv(name, features, features)
conv("conv_last", features, 3)
folder = Path(sys.argv[1]).parent
torch.save({"params_ema": state}, folder / "esrgan.pth")
name = f"spandrel:{folder / 'esrgan.pth'}"
result = evaluate([name, "bicubic"], Path(sys.argv[1]), Path(sys.argv[2]), "sr", device="cpu")
restored = spandrel.ModelLoader("cpu").load_from_file(folder / "esrgan.pth")
result["scale"] = restored.scale
print(json.dumps(result, default=str))
"""


def test_spandrel_model_in_the_same_table(pairs: tuple[Path, Path]) -> None:
    """A small ESRGAN file, written here in its published format, stands beside bicubic."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *map(str, pairs), ORACLES],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    if "skip" in result:
        pytest.skip(f"spandrel cannot be imported here ({result['skip']}); it needs torchvision")
    assert result["scale"] == 4
    network, bicubic = result["models"]
    assert network["model"].startswith("spandrel:")
    assert len(network["images"]) == len(bicubic["images"]) == 2
    assert network["mean"]["psnr_y"] < bicubic["mean"]["psnr_y"]  # random weights


@pytest.mark.parametrize("has_mask", [False, True])
def test_a_stage_1_network_sees_the_gt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_mask: bool
) -> None:
    """A stage-1 file is a row: the network under the IPR of LQ and GT, padded to its multiple, clamped.

    On a GPU, too, float32 is float32.
    """
    products, forward = list[str](), DiffIRS1.forward

    def spied(self: DiffIRS1, *given: torch.Tensor) -> torch.Tensor:
        products.append(torch.backends.cudnn.conv.fp32_precision)
        return forward(self, *given)

    monkeypatch.setattr(DiffIRS1, "forward", spied)
    monkeypatch.setattr(methods, "float32_products", lambda _: float32_products(torch.device("cuda")))
    fields = (
        {"task": "inpainting", "skip": "none"} if has_mask else {"task": "sr", "scale": 4, "tail": "direct"}
    )
    torch.manual_seed(2)
    network = DiffIRS1(ModelConfig.from_dict(TINY | fields)).eval()
    save(tmp_path / "s1.safetensors", network)
    scale = 1 if has_mask else 4
    lq, gt = torch.rand(3, 10, 13), torch.rand(3, 10 * scale, 13 * scale)
    mask = (torch.rand(1, 10, 13) > 0.7).float() if has_mask else None
    method = find_method(str(tmp_path / "s1.safetensors"), device="cpu")
    assert method.oracle is not None and method.scale == scale
    seen = lq if mask is None else torch.cat([lq * (1 - mask), mask])
    padded = [functional.pad(x[None], (0, 3 * f, 0, 6 * f), "reflect") for x, f in ((seen, 1), (gt, scale))]
    with torch.no_grad():
        expected = network(*padded)[0, :, : 10 * scale, : 13 * scale].clamp(0, 1)
    torch.testing.assert_close(method.oracle(lq, mask, gt), expected, rtol=1e-4, atol=1e-5)
    assert products == ["tf32", "ieee"]  # the first is PyTorch's own choice
    with pytest.raises(DataError, match="is a stage-1 network, which needs the clean photo"):
        restore_alone(method, "a", lq, mask, scale, 0)


def test_stage_1_stands_beside_stage_2(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """`evaluate` takes both, and scores stage 1 with the GT of each photo."""
    torch.manual_seed(2)
    config = ModelConfig.from_dict(TINY | {"task": "sr", "scale": 4, "tail": "direct", "skip": "bicubic"})
    save(tmp_path / "s1.safetensors", DiffIRS1(config))
    result = evaluate([str(tmp_path / "s1.safetensors"), "bicubic"], *pairs, "sr", device="cpu")
    assert [len(entry["images"]) for entry in result["models"]] == [2, 2]
    assert len(result["models"][0]["sha256"]) == 64


def test_finished_results_are_read(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """A folder of results scores as the method that made it; what is not there, or too small, is named."""
    done = tmp_path / "done"
    evaluate("bicubic", *pairs, "sr", save=done)
    model = f"results:Theirs={done / 'bicubic'}"
    journal = tmp_path / "rows.jsonl"
    for _ in range(2):  # files may change: they are read again, not taken from the journal
        result = evaluate([model, "bicubic"], *pairs, "sr", journal=journal)
        ours, theirs = result["models"]
        assert ours["model"] == "Theirs"
        assert ours["mean"]["psnr_y"] == pytest.approx(theirs["mean"]["psnr_y"], abs=1e-9)
    (done / "bicubic" / "meadow.png").rename(done / "bicubic" / "meadow_x.png")
    save_image(done / "bicubic" / "meadow_y.png", scene(1))
    with pytest.raises(DataError, match=r"has meadow_x.png, meadow_y.png for meadow; expected one result"):
        evaluate(model, *pairs, "sr")
    save_image(done / "bicubic" / "meadow.png", scene(1, 40, 40))
    with pytest.raises(DataError, match="Theirs gives 40×40 for meadow; expected the size of its GT, 128×96"):
        evaluate(model, *pairs, "sr")
    for wrong, error in (("results:x", ConfigError), (f"results:x={tmp_path / 'none'}", DataError)):
        with pytest.raises(error):
            find_method(wrong)


def test_unknown_names_are_refused() -> None:
    """A name that is neither a model nor a file is one line."""
    with pytest.raises(CheckpointError, match="no-such-model"):
        find_method("no-such-model")
