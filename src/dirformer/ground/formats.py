"""Photo files by name, kind and header: what can be checked before anything is decoded.

This file imports neither torch nor numpy, so the command line can use it before they are loaded.
"""

from __future__ import annotations

import contextlib
import io
import re
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from dirformer.ground.errors import DirformerError, OutputError, PhotoError

WRITTEN = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
}
"""File name → format of the photos that can be written."""
SUFFIXES = (*WRITTEN, ".gif", ".heic", ".heif", ".hif", ".apng", ".j2k", ".jpx", ".jpf", ".dib")
"""File names taken for photos, in any case; nothing else is opened when a folder is given."""
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "HEIF")
"""Decoders that are allowed to run, whatever a file is called."""
FORMAT_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "avif": ".avif"}
"""What `--format` takes, beside `same`."""
RAW = frozenset(
    f".{name}"
    for name in (
        *("3fr", "ari", "arw", "bay", "braw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "fff", "gpr", "iiq"),
        *("k25", "kdc", "mef", "mos", "mrw", "nef", "nrw", "orf", "pef", "ptx", "raf", "raw", "rw2", "rwl"),
        *("sr2", "srf", "srw", "x3f"),
    )
)
OTHERS = frozenset(
    f".{name}"
    for name in (
        *("psd", "psb", "xcf", "exr", "hdr", "jxl", "svg", "ppm", "pgm", "pbm", "pnm", "pfm", "tga", "ico"),
        *("icns", "eps", "pcx", "dds", "qoi", "fits", "fit", "jxr", "wdp", "j2c", "jpc", "sgi", "dcm"),
    )
)
"""File names of pictures that are not read: they are counted and named, not passed over without a word."""
MAX_PIXELS = 178_956_970
"""The largest photo that is decoded unless the caller says otherwise; it is also Pillow's limit."""
ORIENTATION = 0x0112
EXPECTED = "PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000 or HEIC"

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
_PAGES_LIMIT = 100_000
_LOCK = threading.Lock()


Source = io.BytesIO | io.BufferedReader
"""An open file, or the bytes of one."""


class UnfitError(Exception):
    """A whole photo whose pixels have no stated meaning; `decoding` names the file."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of a photo say of it."""

    kind: str
    """`PNG16` and `TIFF16` are the deep kinds that Pillow cannot hold; else Pillow's name of the format."""
    width: int
    height: int
    """Pixels of the upright photo."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 where the file has none that is valid."""
    sample_bytes: int
    """Bytes of one decoded pixel, all channels together."""


def kind_of_name(path: Path) -> str:
    """Return `photo`, `raw`, `picture` (another format that is not read) or `other`, by the suffix alone."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return "photo"
    return "raw" if suffix in RAW else "picture" if suffix in OTHERS else "other"


def check_suffix(path: Path) -> None:
    """Raise OutputError unless the suffix names a format that can be written."""
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        why = " (GIF holds only 256 colours)" if suffix == ".gif" else ""
        raise OutputError(
            f"{path} has no photo suffix that can be written{why}; expected one of {', '.join(WRITTEN)}"
        )


def list_photos(folder: Path) -> list[Path]:
    """Return the photos of a folder, by name; not of folders below it. Raises OSError if it is no folder."""
    return [path for path in _entries(folder) if kind_of_name(path) == "photo" and not path.is_dir()]


def left_out(folder: Path) -> str | None:
    """Return a line that counts and names the pictures of a folder that cannot be read; None without any."""
    found = [path for path in _entries(folder) if kind_of_name(path) in ("raw", "picture")]
    found = [path for path in found if not path.is_dir()]
    if not found:
        return None
    names = ", ".join(path.name for path in found[:3]) + (", …" if len(found) > 3 else "")
    what = "1 file is" if len(found) == 1 else f"{len(found)} files are"
    return f"{folder}: {what} left out, the format is not read: {names}; convert to TIFF or PNG first"


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def require_file(path: Path) -> None:
    """Raise PhotoError unless `path` is a file with something in it; a pipe or a device is never opened."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise PhotoError(f"{path} is not there; give the name of a photo") from None
    except (OSError, ValueError) as error:
        raise PhotoError(f"{path} cannot be opened: {_one_line(error)}; give another name") from None
    for test, kind in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(status.st_mode):
            raise PhotoError(f"{path} is {kind}; expected the file of a photo")
    if status.st_size == 0:
        raise PhotoError(f"{path} is empty (0 bytes); expected a photo")


@contextlib.contextmanager
def decoding(name: str, unknown: str = "is not a photo that can be read") -> Iterator[None]:
    """Turn whatever a decoder raises into a PhotoError of `name`: damaged files raise nearly everything."""
    try:
        with warnings.catch_warnings():
            # Damaged metadata and large photos only warn. Pixels decide, and the limits are errors.
            warnings.simplefilter("ignore")
            yield
    except DirformerError:
        raise
    except UnfitError as error:
        raise PhotoError(f"{name} {error}") from None
    except UnidentifiedImageError:
        raise PhotoError(f"{name} {unknown}; expected {EXPECTED}") from None
    except Image.DecompressionBombError as error:
        numbers = re.findall(r"\d+", str(error)) or ["?"]
        raise PhotoError(
            f"{name} is too large: its header names {numbers[0]} pixels; raise --max-pixels to read it"
        ) from None
    except MemoryError:
        raise PhotoError(f"{name} does not fit into memory; make it smaller or close programs") from None
    except PermissionError as error:
        raise PhotoError(f"{name} cannot be opened: {error.strerror}; ask for the right to read it") from None
    except Exception as error:  # noqa: BLE001
        raise PhotoError(f"{name} is damaged and cannot be decoded: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.split())[:120]
    return text or type(error).__name__


@contextlib.contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Let Pillow open photos of up to `max_pixels`; its own limit is one number for the whole process."""
    if max_pixels <= MAX_PIXELS:
        yield
        return
    with _LOCK:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def open_image(source: Source) -> Image.Image:
    """Open a photo with Pillow: its header is read, its pixels are not."""
    source.seek(0)
    head = source.read(32)
    source.seek(0)
    heif = head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS
    if heif and b"avif" not in head[8:]:
        _register_heif()
    formats = [name for name in FORMATS if name != "HEIF" or heif]
    try:
        return Image.open(source, formats=formats)
    except ValueError as error:
        if head[:4] != b"\x89PNG" or "text" not in str(error).lower():
            raise
        # Megabytes of text in a PNG: the photo is read without its text.
        return Image.open(io.BytesIO(without_text(source)), formats=formats)


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise PhotoError(
            "a HEIC photo needs pillow-heif; install it with: pip install 'dirformer[heif]'"
        ) from None
    pillow_heif.register_heif_opener()


def png_chunks(source: Source) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, offset of the data and length of each chunk of a PNG, without reading the data."""
    end = source.seek(0, io.SEEK_END)
    offset = 8
    while offset + 8 <= end:
        source.seek(offset)
        length, kind = struct.unpack(">I4s", source.read(8))
        yield kind, offset + 8, length
        offset += 12 + length


def without_text(source: Source) -> bytes:
    """Return the bytes of a PNG without its text chunks."""
    pieces = [b"\x89PNG\r\n\x1a\n"]
    for kind, offset, length in png_chunks(source):
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            source.seek(offset - 8)
            pieces.append(source.read(length + 12))
    return b"".join(pieces)


def empty_tags(order: bytes, *, big: bool) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return a directory of TIFF tags to load; `order` is `II` or `MM`, `big` is for BigTIFF."""
    mark = b"*\0" if order == b"II" else b"\0*"
    tags = TiffImagePlugin.ImageFileDirectory_v2(order + mark + bytes(4))
    # Pillow finds the mark of BigTIFF in one of the two byte orders only.
    tags._bigtiff = big  # noqa: SLF001
    return tags


def tiff_pages(source: Source) -> Iterator[TiffImagePlugin.ImageFileDirectory_v2]:
    """Yield the tags of each page of a TIFF; a circle of pages ends."""
    source.seek(0)
    head = source.read(16)
    order, big = head[:2], head[2:4] in (b"+\0", b"\0+")
    place = "Q" if big else "L"
    (offset,) = struct.unpack_from(("<" if order == b"II" else ">") + place, head, 8 if big else 4)
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < _PAGES_LIMIT:
        seen.add(offset)
        tags = empty_tags(order, big=big)
        source.seek(offset)
        tags.load(source)
        yield tags
        offset = tags.next


def tiff_page(source: Source, page: int) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return the tags of one page of a TIFF. Raises UnidentifiedImageError if there is none."""
    for number, tags in enumerate(tiff_pages(source)):
        if number == page:
            return tags
    raise UnidentifiedImageError


def is_tiff(head: bytes) -> bool:
    """Return whether these first bytes begin a TIFF."""
    return head[:4] in _TIFF_STARTS


def number(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, default: int) -> int:
    """Return a tag as an integer, the first of several; `default` where it is missing or of another type."""
    try:
        value = tags.get(tag, default)
        value = value[0] if isinstance(value, tuple) else value
        return int(value)
    except (TypeError, ValueError, LookupError):
        return default


def valid_orientation(value: object) -> int:
    """Return an EXIF orientation of 1 to 8; 1 for everything else."""
    value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 8 else 1


def raw_exif(image: Image.Image, source: Source) -> bytes | None:
    """Return the EXIF block of an opened photo other than a TIFF, without decoding its pixels."""
    data = image.info.get("exif")
    if data is None and (text := image.info.get("Raw profile type exif")) is not None:
        # ImageMagick writes EXIF into PNG as hexadecimal text below three lines of its own.
        data = bytes.fromhex("".join(str(text).split("\n")[3:]))
    if data is None and image.format == "PNG":
        for kind, offset, length in png_chunks(source):
            if kind == b"eXIf" and length < 2**24:
                source.seek(offset)
                data = source.read(length)
    return data if isinstance(data, bytes) else None


def parse_exif(data: bytes | None) -> Image.Exif:
    """Return EXIF tags; none where the block is damaged."""
    exif = Image.Exif()
    with contextlib.suppress(Exception):
        exif.load(data or b"")
    return exif


def read_header(source: Source, name: str, page: int = 0) -> Header:
    """Read size, depth and orientation of a photo from its first bytes; call it within `decoding`."""
    source.seek(0)
    head = source.read(32)
    if is_tiff(head):
        return _tiff_header(tiff_page(source, page))
    with open_image(source) as image:
        (width, height), kind = image.size, str(image.format)
        turn = 1
        if kind != "HEIF":  # turned by its decoder
            with contextlib.suppress(Exception):
                turn = valid_orientation(parse_exif(raw_exif(image, source)).get(ORIENTATION))
        channels = len(image.getbands()) * (2 if image.mode.startswith("I;16") else 1)
    if kind == "PNG" and head[24] == 16:
        kind, channels = "PNG16", {0: 2, 2: 6, 4: 4, 6: 8}.get(head[25], 8)
    if min(width, height) < 1:
        raise PhotoError(f"{name} is {width}×{height} pixels; expected at least 1×1")
    return _upright(Header(kind, width, height, turn, max(1, channels)))


def _tiff_header(tags: TiffImagePlugin.ImageFileDirectory_v2) -> Header:
    width, height = (number(tags, tag, 0) for tag in (256, 257))
    if min(width, height) < 1:
        raise ValueError(f"a TIFF of {width}×{height} pixels")
    bits, samples = number(tags, 258, 1), number(tags, 277, 1)
    kind = "TIFF"
    # Colour-separated and Lab photos, 8 bit and less: Pillow. JPEG inside a TIFF has 8 bits too.
    if (bits > 8 or number(tags, 339, 1) != 1) and number(tags, 262, 1) not in (3, 5, 6, 8):
        kind = "TIFF16"
    turn = valid_orientation(tags.get(ORIENTATION))
    return _upright(Header(kind, width, height, turn, max(1, samples) * max(1, (bits + 7) // 8)))


def _upright(header: Header) -> Header:
    if header.orientation < 5:
        return header
    return Header(header.kind, header.height, header.width, header.orientation, header.sample_bytes)


def photo_size(path: Path, page: int = 0) -> tuple[int, int]:
    """Return width and height of the upright photo, from its header; `page` is that of a TIFF.

    Raises:
        PhotoError: if the file is missing, is no file, or has no header of a photo.
    """
    require_file(path)
    with decoding(str(path), "cannot be read as a photo"), pixel_limit(2**40), path.open("rb") as source:
        header = read_header(source, str(path), page)
    return header.width, header.height


def count_pages(path: Path) -> int:
    """Return the number of pages of a TIFF or frames of an animation; 1 for every other photo.

    Raises:
        PhotoError: if the file cannot be read.
    """
    require_file(path)
    with decoding(str(path)), path.open("rb") as source:
        if is_tiff(source.read(4)):
            return max(1, sum(1 for _ in tiff_pages(source)))
        with open_image(source) as image:
            # The other pictures of an MPO are previews and depth maps.
            return 1 if image.format in ("MPO", "HEIF") else int(getattr(image, "n_frames", 1))


GPS, EXIF_IFD = int(ExifTags.IFD.GPSInfo), int(ExifTags.IFD.Exif)
