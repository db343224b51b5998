"""The data sets of the paper: what their official archives hold, and what training wants from them.

A part lists patterns of paths, one for each layout that the set is passed on in; the first that finds
anything is taken. The named groups of a pattern, joined by underscores, are the photo's name.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from dirformer.ground.errors import ConfigError

PHOTO = r"\.(?:png|PNG|jpg|JPG|jpeg|bmp)$"


@dataclass(frozen=True)
class Cut:
    """Sub-images: squares of `side` pixels every `step` pixels, the last ones aligned to the border."""

    side: int
    step: int

    @staticmethod
    def parse(text: str) -> Cut:
        """Read SIDE/STEP, such as 480/240; ConfigError otherwise."""
        match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
        if match is None:
            raise ConfigError(f"cut {text!r} is not SIDE/STEP in pixels, such as 480/240")
        return Cut(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Part:
    """One part of a data set."""

    name: str
    """Folder of the result."""
    gt: tuple[str, ...]
    """Patterns of the clean photos (or of all photos, where nothing is paired)."""
    count: int | None
    """Photos or pairs in the official set; None where releases differ."""
    lq: tuple[str, ...] = ()
    """Patterns of the degraded partners, one for each of `gt`."""
    pairs: str | None = None
    """Pattern of a list file of pairs instead: GT and LQ on each line."""
    names: str | None = None
    """Pattern of a list file of names that the part is limited to."""
    shuffled: tuple[int, int] | None = None
    """Of the listed names, in an order shuffled once and for all, those from … to."""
    numbers: range | None = None
    """The numbers that the names should be, to say which are missing."""
    cut: Cut | None = None
    multiscale: bool = False
    """Also cut copies reduced to 3/4, 1/2 and 1/3, and to a shorter side of 400, as Real-ESRGAN does."""
    scales: tuple[int, ...] = ()
    """Write GT and MATLAB-bicubic LQ for each of these scales."""
    size: tuple[int, int] | None = None
    """Width and height that every photo has."""
    spare: bool = False
    """There may be clean photos without a partner."""
    optional: bool = False
    """Often downloaded without this part."""


@dataclass(frozen=True)
class DataSet:
    """A data set by the name that `dirformer prepare` knows it by."""

    title: str
    parts: tuple[Part, ...]


def _benchmark(title: str, folders: str, count: int, numbered: str = r"img_\d+") -> DataSet:
    layouts = [rf"(?:^|/)(?:{folders})/(?:original/|HR(?:x4)?/|GTmod12/)?(?P<name>[^/]+){PHOTO}"]
    # The layout of SelfExSR's archive, in which photos are numbered.
    layouts.insert(0, rf"(?:^|/)image_SRF_4/(?P<name>{numbered})_SRF_4_HR{PHOTO}")
    layouts.append(rf"^(?:HR(?:x4)?/|GTmod12/)?(?P<name>[^/]+){PHOTO}")
    return DataSet(title, (Part("", tuple(layouts), count, scales=(2, 3, 4)),))


def _ntire(first: str, source: int, valid: int, target: str) -> tuple[Part, ...]:
    return (
        Part("source", (rf"(?:^|/){first}-tr-x/(?P<name>[^/]+){PHOTO}",), source),
        Part("target", (rf"(?:^|/){first}-tr-y/(?P<name>[^/]+){PHOTO}",), 800, optional=True),
        Part(
            "valid",
            (target,),
            valid,
            lq=(rf"(?:^|/){first}-va(?:-x)?/(?P<name>[^/]+){PHOTO}",) if first == "Corrupted" else (),
            spare=True,
        ),
        Part("test", (rf"(?:^|/){first}-te-x/(?P<name>[^/]+){PHOTO}",), 100, optional=True),
    )


def _realblur(letter: str) -> DataSet:
    def part(split: str, count: int) -> Part:
        return Part(split, (), count, pairs=rf"(?:^|/)RealBlur_{letter}_{split}_list\.txt$")

    return DataSet(f"RealBlur-{letter} (Rim et al., ECCV 2020)", (part("test", 980), part("train", 3758)))


def _realsr(split: str, scale: int) -> Part:
    start = rf"(?:^|/)(?P<camera>Canon|Nikon)/{split}/{scale}/(?:Canon|Nikon)_(?P<number>\d+)_"
    return Part(
        f"{split.lower()}-x{scale}",
        (rf"{start}HR{PHOTO}",),
        100 if split == "Test" else None,
        lq=(rf"{start}LR{scale}{PHOTO}",),
        optional=split == "Train",
    )


def _gopro(split: str, count: int, cut: Cut | None) -> Part:
    def layout(kind: str) -> str:
        return rf"(?:^|/){split}/(?P<clip>[^/]+)/{kind}/(?P<frame>\d+){PHOTO}"

    return Part(split, (layout("sharp"),), count, lq=(layout("blur"),), cut=cut, size=(1280, 720))


def _hide(split: str, count: int, folders: str) -> Part:
    return Part(
        split,
        (rf"(?:^|/)GT/(?P<name>[^/]+){PHOTO}",),
        count,
        lq=(rf"(?:^|/){split}/{folders}(?P<name>[^/]+){PHOTO}",),
        spare=True,
        optional=split == "train",
    )


DATA_SETS: dict[str, DataSet] = {
    "div2k": DataSet(
        "DIV2K (Agustsson and Timofte, CVPRW 2017); its validation part is the paper's DIV2K100",
        (
            Part(
                "train",
                (rf"(?:^|/)DIV2K_train_HR/(?P<name>\d{{4}}){PHOTO}",),
                800,
                numbers=range(1, 801),
                cut=Cut(480, 240),
            ),
            Part(
                "valid",
                (rf"(?:^|/)DIV2K_valid_HR/(?P<name>\d{{4}}){PHOTO}",),
                100,
                numbers=range(801, 901),
                scales=(2, 3, 4),
            ),
        ),
    ),
    "flickr2k": DataSet(
        "Flickr2K (Timofte et al., CVPRW 2017)",
        (
            Part(
                "train",
                (rf"(?:^|/)Flickr2K_HR/(?P<name>\d{{6}}){PHOTO}",),
                2650,
                numbers=range(1, 2651),
                cut=Cut(480, 240),
            ),
        ),
    ),
    "ost": DataSet(
        "OutdoorSceneTraining (Wang et al., CVPR 2018)",
        (
            Part(
                "train",
                (r"(?:^|/)(?P<kind>animal|building|grass|mountain|plant|sky|water)/(?P<name>[^/]+)" + PHOTO,),
                10324,
                cut=Cut(400, 200),
            ),
        ),
    ),
    "set5": _benchmark("Set5 (Bevilacqua et al., BMVC 2012)", "Set5", 5),
    "set14": _benchmark("Set14 (Zeyde et al., 2010)", "Set14", 14),
    "general100": _benchmark(
        "General100 (Dong et al., ECCV 2016)", "General-?100|General-100", 100, r"im_\d+"
    ),
    "urban100": _benchmark("Urban100 (Huang et al., CVPR 2015)", "Urban100", 100),
    "gopro": DataSet(
        "GoPro (Nah et al., CVPR 2017), blurred without the gamma curve",
        (_gopro("train", 2103, Cut(512, 256)), _gopro("test", 1111, None)),
    ),
    "hide": DataSet(
        "HIDE (Shen et al., ICCV 2019)",
        (_hide("test", 2025, r"(?:test-)?(?:close-ups|long-shot)/"), _hide("train", 6397, "")),
    ),
    "realblur-j": _realblur("J"),
    "realblur-r": _realblur("R"),
    "celeba-hq": DataSet(
        "CelebA-HQ at 256 pixels (Karras et al., ICLR 2018), split by LaMa's list files",
        (
            *(
                Part(
                    name,
                    (r"(?:^|/)data256x256/(?P<name>\d+)" + PHOTO,),
                    places[1] - places[0],
                    names=r"(?:^|/)train_shuffled\.flist$",
                    shuffled=places,
                    size=(256, 256),
                )
                for name, places in (("train", (2000, 28000)), ("valid", (0, 2000)))
            ),
            Part(
                "test",
                (r"(?:^|/)data256x256/(?P<name>\d+)" + PHOTO,),
                2000,
                names=r"(?:^|/)val_shuffled\.flist$",
                size=(256, 256),
            ),
        ),
    ),
    "places365": DataSet(
        "Places365-Standard (Zhou et al., 2017), large pictures",
        (
            Part("train", (r"(?:^|/)data_large(?:_standard)?/(?P<name>.+)" + PHOTO,), 1803460),
            Part(
                "valid",
                (r"(?:^|/)val_large/(?P<name>Places365_val_\d+)" + PHOTO,),
                36500,
                numbers=range(1, 36501),
                optional=True,
            ),
        ),
    ),
    "places365-challenge": DataSet(
        "Places365-Challenge (Zhou et al., 2017), large pictures",
        (Part("train", (r"(?:^|/)data_large(?:_challenge)?/(?P<name>.+)" + PHOTO,), 8026628),),
    ),
    "realsr": DataSet(
        "RealSR version 3 (Cai et al., ICCV 2019): the set of the paper's Table 6",
        tuple(_realsr(split, scale) for split in ("Test", "Train") for scale in (2, 3, 4)),
    ),
    "ntire2020-track1": DataSet(
        "NTIRE 2020 real-world super-resolution, track 1 (image processing artefacts)",
        _ntire("Corrupted", 2650, 100, rf"(?:^|/)DIV2K_valid_HR/(?P<name>\d{{4}}){PHOTO}"),
    ),
    "ntire2020-track2": DataSet(
        "NTIRE 2020 real-world super-resolution, track 2 (smartphone pictures, no GT)",
        _ntire("DPEDiphone", 5614, 113, rf"(?:^|/)DPEDiphone-va(?:-x)?/(?P<name>[^/]+){PHOTO}"),
    ),
}
"""Name → what it holds. Counts are those of the papers and download pages."""


def find_set(name: str) -> DataSet:
    """Return the data set of that name.

    Raises:
        ConfigError: with the nearest name.
    """
    if name not in DATA_SETS:
        near = difflib.get_close_matches(str(name), DATA_SETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no data set {name!r}; the nearest is {near!r}, of {', '.join(DATA_SETS)}")
    return DATA_SETS[name]
