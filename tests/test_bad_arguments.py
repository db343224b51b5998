"""Whatever is given to a public function by mistake is answered in one line of our own.

The calls run in a process of their own: here all types are checked before a function sees its arguments, and
users have no such check.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from dirformer.inference.jobs import FileOptions
from dirformer.inference.options import RestoreOptions
from dirformer.weights.checkpoints import save
from helpers import TINY_INPAINTING, picture, python, tiny

SCRIPT = """
import json, warnings
from dataclasses import asdict
from pathlib import Path
import numpy as np
import torch
from PIL import Image
warnings.simplefilter("ignore")  # torch's, about its own rare kinds of tensors
import dirformer as d
from dirformer.inference.jobs import FileOptions

sr, fill = d.Restorer("sr.safetensors", device="cpu"), d.Restorer("fill.safetensors", device="cpu")
photo, nan = torch.rand(3, 12, 16), float("nan")
nested = torch.nested.nested_tensor([photo, photo])
quantised = torch.quantize_per_tensor(photo, 1 / 255, 0, torch.quint8)
csr = photo[0].to_sparse_csr()
warnings.simplefilter("error")
unreadable = {
    "meta": photo.to("meta"), "sparse": photo.to_sparse(), "csr": csr, "nested": nested,
    "quantised": quantised, "mkldnn": photo.to_mkldnn(), "complex": photo.to(torch.complex64),
    "lazy": torch.nn.UninitializedParameter(), "object": photo.numpy().astype("O"),
    "bytes": np.zeros((12, 16), "S1"), "record": np.zeros((12, 16), [("a", "u1")]),
    "huge": np.full((12, 16), 1e300),
    "picture": Image.new("RGB", (0, 5)), "none": [], "open": open("a.png", "rb"),
}
ways = (None, 3, b"a.png", "a\\0b", "x" * 300, [], np.ones((2, 2)))
seeds = ("x", "1", None, 1.5, nan, True, 2**63, 10**5000)
calls = {}
for name, value in unreadable.items():
    calls["photo", name] = lambda v=value: sr.restore(v)
    calls["degrade", name] = lambda v=value: d.degrade(v, "noise")
    calls["mask", name] = lambda v=value: fill.restore(photo, v)
    calls["given prior", name] = lambda v=value: sr.restore(photo, prior=v)
    calls["given noise", name] = lambda v=value: sr.restore(photo, noise=v)
calls["photo", "none at all"] = lambda: sr.restore(None)
calls["degrade", "none at all"] = lambda: d.degrade(None, "noise")
for number, way in enumerate(ways):
    calls["Restorer", number] = lambda w=way: d.Restorer(w)
    calls["load", number] = lambda w=way: d.load(w)
    calls["from_pretrained", number] = lambda w=way: d.from_pretrained(w)
    calls["save_pretrained", number] = lambda w=way: d.save_pretrained(w, "kept")
    calls["push_to_hub", number] = lambda w=way: d.push_to_hub(w, "owner/name")
    calls["export", number] = lambda w=way: d.export(w, "out.onnx")
    calls["restore", number] = lambda w=way: d.restore(w, "out.png", model="sr.safetensors")
    calls["restore to", number] = lambda w=way: d.restore("a.png", w, model="sr.safetensors")
    calls["folder", number] = lambda w=way: d.restore_folder(w, "out", model="sr.safetensors")
    calls["folder to", number] = lambda w=way: d.restore_folder("photos", w, model="sr.safetensors")
    if way is not None:
        calls["mask file", number] = lambda w=way: d.restore("a.png", "out.png", mask=w)
        calls["model", number] = lambda w=way: d.restore("a.png", "out.png", model=w)
    if not isinstance(way, str):
        calls["save to", number] = lambda w=way: d.save_pretrained("sr.safetensors", w)
        calls["repository", number] = lambda w=way: d.push_to_hub("sr.safetensors", w)
        calls["preset", number] = lambda w=way: d.preset(w)
        calls["network", number] = lambda w=way: d.DiffIRS2(w)
        calls["kind", number] = lambda w=way: d.degrade(photo, w)
for number, seed in enumerate(seeds):
    calls["seed", number] = lambda s=seed: sr.restore(photo, seed=s)
    calls["seed of prior", number] = lambda s=seed: sr.prior(photo, seed=s)
    calls["seed of spread", number] = lambda s=seed: sr.restore_with_spread(photo, seed=s)
    calls["seed of whole", number] = lambda s=seed: sr.restore_whole(photo, seed=s)
    calls["seed of degrade", number] = lambda s=seed: d.degrade(photo, "noise", seed=s)
    calls["seed of file", number] = lambda s=seed: d.restore("a.png", "out.png", seed=s)
    calls["seed of folder", number] = lambda s=seed: d.restore_folder("photos", "out", seed=s)
    if seed is not None:
        calls["seed of export", number] = lambda s=seed: d.export("sr.safetensors", "out.onnx", seed=s)
fields = {
    d.RestoreOptions: dict(
        device=(None, 3, b"cpu"), precision=(None, [], np.ones(2)), max_memory=(b"1", [1], 1.5, True, 0, nan),
        storage=(3,), context=(None, []), window=("a", True, 1.5, 0), self_ensemble=("no", 1, None),
        strength=("x", None, True, nan, 10**400, [1]), consistent=("no",), noise=([],), fill=(3,),
        samples=(True, 2.0, "1", 0, None),
    ),
    FileOptions: dict(
        quality=("x", 90.5, True, nan, 0), format=(None, [], "PNG"), pages=("x", 1), strip_metadata=(None,),
        max_pixels=("x", 1.5, None, 0), dilate=(1.5, "1", None, -1, 10**6), feather=(None, nan, 10**8, True),
        extend=(None, 3, "1234", (1, 2), (1.5, 0, 0, 0), (True, 0, 0, 0), (-1, 0, 0, 0), {}),
        scale=("2", nan, True, [], 0, 17, 10**400),
        box=((0, 0), (None, None), (10,), "10x", (-5, None), (1.5, None), ("1", 2), 3, {}, (10**9, None)),
    ),
    d.ModelConfig: dict(
        task=(3, []), scale=("x", 1.5, True), dim=(None,), blocks=(3, "1111", (1, 2, None, 1)), bias=("no",),
        ffn_factor=("x", nan, 10**400), beta_start=("x", nan), norm=([], 3),
    ),
}
for make, rows in fields.items():
    for name, values in rows.items():
        for number, value in enumerate(values):
            rest = {} if name == "task" or make is not d.ModelConfig else {"task": "sr"}
            calls[make.__name__, name, number] = lambda m=make, n=name, v=value, r=rest: m(**r, **{n: v})
for name, make in {
    "options": lambda: d.Restorer("sr.safetensors", {"seed": 1}),
    "progress": lambda: sr.restore(photo, progress=3),
    "progress of spread": lambda: sr.restore_with_spread(photo, progress=3),
    "progress of export": lambda: d.export("sr.safetensors", "out.onnx", progress=3),
    "files": lambda: d.restore("a.png", "out.png", files={}),
    "files of a folder": lambda: d.restore_folder("photos", "out", files={"quality": 3}),
    "overwrite": lambda: d.restore("a.png", "out.png", overwrite="no"),
    "overwrite a folder": lambda: d.restore_folder("photos", "out", overwrite=1),
    "overwrite an export": lambda: d.export("sr.safetensors", "out.onnx", overwrite="no"),
    "overwrite a network": lambda: d.save_pretrained("sr.safetensors", "kept", overwrite="no"),
    "task": lambda: d.restore("a.png", "out.png", task=3),
    "tasks": lambda: d.restore("a.png", "out.png", task=[]),
    "format": lambda: d.export("sr.safetensors", "out.onnx", to=[]),
    "format and name": lambda: d.export("sr.safetensors", to=3),
    "weights": lambda: d.export("sr.safetensors", "out.onnx", precision=[]),
    "card": lambda: d.save_pretrained("sr.safetensors", "kept", name=3),
    "licence": lambda: d.save_pretrained("sr.safetensors", "kept", licence=3),
    "provenance": lambda: d.save_pretrained(sr.model, "kept", provenance={"a": object()}),
    "revision": lambda: d.from_pretrained("owner/name", revision=3),
    "scale": lambda: d.degrade(photo, "bicubic", scale="x"),
    "scales": lambda: d.degrade(photo, "bicubic", scale=4.0),
    "too small": lambda: d.degrade(photo[:, :2], "bicubic", scale=4),
    "config": lambda: d.ModelConfig.from_dict(3),
    "mask without a hole": lambda: fill.restore(photo, np.zeros((12, 16), bool)),
    "mask that is all hole": lambda: fill.restore(photo, np.ones((12, 16), bool)),
    "prior under all hole": lambda: fill.prior(photo, np.ones((12, 16), bool)),
}.items():
    calls[name, ""] = make
for workers in (-1, 65, 1.5, "x", None):
    calls["workers", str(workers)] = lambda w=workers: d.restore_folder("photos", "out", workers=w)

wrong = []
for key, call in calls.items():
    try:
        call()
    except d.DirformerError as error:
        if len(str(error).splitlines()) != 1 or len(str(error)) > 500:
            wrong.append([str(key), "not a short line", str(error)[:300]])
    except BaseException as error:
        wrong.append([str(key), type(error).__name__, str(error)[:300]])
    else:
        wrong.append([str(key), "accepted", ""])
written = sorted(path.name for path in Path().iterdir())
two, half, memory = np.int64(2), np.float32(0.5), np.int64(4096)
same = d.RestoreOptions(strength=half, samples=two, max_memory=memory, window=np.uint8(8))
files = FileOptions(np.int32(90), extend=[np.int64(1), 0, 0, 0], scale=None, pages=np.bool_(False))
equal = torch.equal(sr.restore(photo, seed=np.int64(3)), sr.restore(photo, seed=3))
print(json.dumps({"calls": len(calls), "wrong": wrong, "written": written, "equal": equal,
                  "options": asdict(same), "files": asdict(files)}))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two tiny networks, a photo, and a folder of photos."""
    save(tmp_path / "sr.safetensors", tiny())
    save(tmp_path / "fill.safetensors", tiny(TINY_INPAINTING))
    picture(16, 12).save(tmp_path / "a.png")
    (tmp_path / "photos").mkdir()
    picture(16, 12).save(tmp_path / "photos" / "b.png")
    return tmp_path


def test_every_mistake_is_one_line(place: Path) -> None:
    """A DirformerError on one line, no warning, and nothing written; nothing wrong is accepted.

    NumPy's numbers are right, and become Python's: the log of finished photos is JSON.
    """
    before = sorted(path.name for path in place.iterdir())
    ran = python("-c", SCRIPT, cwd=place)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["wrong"] == [] and found["calls"] > 200
    assert found["written"] == before
    right = RestoreOptions(strength=0.5, samples=2, max_memory=4096, window=8)
    assert found["equal"] and found["options"] == asdict(right)
    assert found["files"] == json.loads(json.dumps(asdict(FileOptions(90, extend=(1, 0, 0, 0)))))
