"""Which photos there are: folders, list files, pairs by name."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from dirformer.ground.errors import ConfigError, DataError, PhotoError
from dirformer.ground.formats import kind_of_name, list_photos, photo_size
from dirformer.ground.paths import is_file
from dirformer.ground.places import Named, Place, entries
from dirformer.ground.yaml_text import cut


def find_photos(source: Named, *, without: Path | None = None) -> list[Named]:
    """Return the photos of a folder or of a list file, by name.

    Args:
        source: a folder, here or at an address, or a text file with one name per line, relative to the
            folder the file stands in or to the folder of the same stem beside it (`photos_val.txt` names
            files of `photos/`, or of `photos_val/`).
        without: a list file; its photos are left out.

    Raises:
        DataError: if there is nothing there, or a listed photo is missing.
    """
    photos = _found(source)
    if without is not None:
        left_out = {path.name for path in find_photos(without)}
        photos = [path for path in photos if path.name not in left_out]
    if not photos:
        raise DataError(f"{source} has no photos; expected PNG, JPEG, WebP, TIFF or BMP files")
    return photos


def _found(source: Named) -> list[Named]:
    if isinstance(source, Place):
        return _photos_at(source)
    return _photos_here(source)


def _photos_here(source: Path) -> list[Path]:
    if source.is_dir():
        try:
            return list_photos(source)
        except OSError as error:
            why = "no permission" if isinstance(error, PermissionError) else error.strerror
            raise DataError(f"{source} cannot be opened: {why}; give a folder of photos") from None
    if source.is_file() and source.suffix == ".txt":
        return _listed(source)
    if is_file(source):
        raise DataError(f"{source} is a file; expected a folder of photos or a .txt list of their names")
    raise DataError(NOT_THERE.format(source))


def _photos_at(source: Place) -> list[Place]:
    if source.local is not None:
        return [Place.of(path) for path in _photos_here(source.local)]
    if source.is_folder():
        names = [one.name for one in source.listed()[1]]
        return [source.below(name) for name in names if kind_of_name(Path(name)) == "photo"]
    is_there = source.entry() is not None
    if is_there and source.suffix != ".txt":
        raise DataError(f"{source} is a file; expected a folder of photos or a .txt list of their names")
    if not is_there:
        raise DataError(NOT_THERE.format(source))
    folders = [*(source.parent.below(stem) for stem in _stems(source)), source.parent]
    names = list(filter(None, source.lines()))
    candidates = [[folder.below(name) for folder in folders] for name in names]
    stated = iter(entries([place for each in candidates for place in each]))
    found = []
    for name, places in zip(names, candidates, strict=True):
        there = [place for place in places if next(stated).version]
        if not there:
            raise DataError(NOT_LISTED.format(source, cut(name), ", ".join(map(str, folders))))
        found.append(there[0])
    return found


NOT_THERE = "{} is not there; expected a folder of photos or a .txt list"
NOT_LISTED = "{} lists {}, which is in none of: {}"


def _stems(source: Path | Place) -> list[str]:
    """Return the folders beside a list whose photos it may name: of photos_val.txt photos_val and photos."""
    return [source.stem, source.stem.rsplit("_", 1)[0]]


def pick_photos(photos: list[Path], count: int | None) -> list[Path]:
    """Return `count` of the photos, by name; None takes all.

    The same ones on every machine: those whose names, without suffix, have the smallest SHA-256.

    Raises:
        ConfigError: if there are fewer.
    """
    if count is None:
        return photos
    if not 1 <= count <= len(photos):
        raise ConfigError(
            f"{count} photos are to be picked, {len(photos)} are there; give a number up to that"
        )
    chosen = sorted(photos, key=lambda path: hashlib.sha256(path.stem.encode()).digest())[:count]
    return sorted(chosen)


def _listed(source: Path) -> list[Path]:
    names = [line.strip() for line in _lines(source) if line.strip()]
    folders = [*(source.parent / stem for stem in _stems(source)), source.parent]
    found = []
    for name in names:
        path = next((folder / name for folder in folders if is_file(folder / name)), None)
        if path is None:
            raise DataError(NOT_LISTED.format(source, cut(name), ", ".join(map(str, folders))))
        found.append(path)
    return found


def _lines(source: Path) -> list[str]:
    try:
        return source.read_text(encoding="utf-8-sig").splitlines()  # with or without a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source} is not UTF-8 text (byte {error.start + 1}); save the list as UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}") from None


Pair = tuple[Path, Path]


def pair_photos(lq: Named, gt: Named, pattern: str | None = None) -> list[tuple[Named, Named]]:
    """Pair two folders by file name without suffix, never by order.

    Args:
        lq: folder of the degraded photos (or of masks).
        gt: folder of the clean ones.
        pattern: what the LQ of a GT called `{}` is called: `{}x4` pairs 0001x4.png with 0001.png. None takes
            the same names, or one of `SCALED` if all pair under that.

    Raises:
        DataError: naming the first photo without a partner, or the first name there is twice.
    """
    pattern = name_pattern(lq, gt) if pattern is None else pattern
    if pattern.count("{}") != 1:
        raise DataError(f"pattern {pattern!r} needs one {{}} where the name goes, such as {{}}x4")
    clash = "have the same name; pairs need one of each"
    clean, degraded = by_name(find_photos(gt), clash), by_name(find_photos(lq), clash)
    wanted = {pattern.format(name): name for name in clean}
    for name in sorted(wanted.keys() ^ degraded.keys()):
        if name in wanted:
            raise DataError(
                f"{wanted[name]} is in {gt} but {name} is not in {lq}; pairs need the same name"
                + _near(name, degraded)
            )
        raise DataError(
            f"{name} is in {lq} but not in {gt} (pattern {pattern!r}); pairs need the same name"
            + _near(name, wanted)
        )
    return [(degraded[name], clean[wanted[name]]) for name in sorted(wanted)]


SCALED = ("{}x2", "{}x3", "{}x4", "{}x8")
"""How DIV2K and the benchmarks of its layout name the LQ photo of a GT called `{}`."""


def name_pattern(lq: Named, gt: Named) -> str:
    """Return the pattern for `pair_photos` under which two folders pair whole; `{}` where none does.

    Raises:
        DataError: if a folder has no photos.
    """
    clean, degraded = ({path.stem for path in find_photos(place)} for place in (gt, lq))
    fitting = (p for p in ("{}", *SCALED) if {p.format(name) for name in clean} == degraded)
    return next(fitting, "{}")


def read_pairs(source: Path) -> list[Pair]:
    """Read a list file of pairs: two names per line, LQ (or mask) and GT, split by a tab or spaces.

    Names are relative to the list's folder. Lines that start with # are passed over.

    Raises:
        DataError: naming the first line that is not a pair of existing files.
    """
    if not source.is_file():
        raise DataError(f"{source} is not there; expected a list of pairs")
    pairs = []
    for number, line in enumerate(_lines(source), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        names = line.strip().split("\t") if "\t" in line else line.split()
        if len(names) != 2:
            raise DataError(f"{source}, line {number}: {len(names)} names; expected two, split by a tab")
        lq, gt = (source.parent / name.strip() for name in names)
        for path in (lq, gt):
            if not is_file(path):
                raise DataError(f"{source}, line {number}: {cut(str(path))} is not there")
        pairs.append((lq, gt))
    if not pairs:
        raise DataError(f"{source} lists no pairs; expected two names per line")
    return pairs


CROPS = "crops need", "take it out or make data.patch smaller"


def require_pairs(pairs: list[Pair], scale: int, side: int = 1, purpose: tuple[str, str] = CROPS) -> None:
    """Raise DataError naming the first pair whose sizes do not match; reads headers only.

    Args:
        pairs: LQ (or mask) and GT.
        scale: the GT must be exactly this much larger.
        side: the GT must have at least this many pixels per side.
        purpose: what needs this size, and the remedy, for the message.
    """
    for lq, gt in pairs:
        (lq_width, lq_height), (width, height) = _size(lq), _size(gt)
        if (lq_width * scale, lq_height * scale) != (width, height):
            raise DataError(
                f"{lq} is {lq_width}×{lq_height} and {gt} {width}×{height}; expected GT {scale} times as "
                f"large: {lq_width * scale}×{lq_height * scale}"
            )
        _require(gt, (width, height), side, purpose)


def require_size(photos: list[Path], side: int, purpose: tuple[str, str] = CROPS) -> None:
    """Raise DataError naming the first photo smaller than `side` pixels; reads headers only."""
    for path in photos:
        _require(path, _size(path), side, purpose)


def _require(path: Path, size: tuple[int, int], side: int, purpose: tuple[str, str]) -> None:
    if min(size) < side:
        what, remedy = purpose
        raise DataError(f"{path} is {size[0]}×{size[1]}; {what} at least {side}×{side}: {remedy}")


def _size(path: Path) -> tuple[int, int]:
    try:
        return photo_size(path)
    except PhotoError as error:
        raise DataError(f"{error}; take it out of the folder") from None


def by_name(photos: list[Named], clash: str) -> dict[str, Named]:
    """Return photos by name without suffix; DataError names the first two of one name, and the `clash`."""
    named: dict[str, Named] = {}
    for path in photos:
        if path.stem in named:
            raise DataError(f"{named[path.stem]} and {path} {clash.format(name=path.stem)}")
        named[path.stem] = path
    return named


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; nearest there: {near[0]}" if near else ""
