"""Which photos there are: folders, list files, pairs by name."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dirformer.errors import DataError
from dirformer.photo import list_photos


def find_photos(source: Path, *, without: Path | None = None) -> list[Path]:
    """Return the photos of a folder or of a list file, by name.

    Args:
        source: a folder, or a text file with one name per line, relative to the folder the file stands in
            or to the folder of the same stem beside it (`photos_val.txt` names files of `photos/`, or of
            `photos_val/`).
        without: a list file; its photos are left out.

    Raises:
        DataError: if there is nothing there, or a listed photo is missing.
    """
    if source.is_dir():
        photos = list_photos(source)
    elif source.is_file() and source.suffix == ".txt":
        photos = _listed(source)
    else:
        raise DataError(f"{source} is not there; expected a folder of photos or a .txt list")
    if without is not None:
        left_out = {path.name for path in find_photos(without)}
        photos = [path for path in photos if path.name not in left_out]
    if not photos:
        raise DataError(f"{source} has no photos; expected PNG, JPEG, WebP, TIFF or BMP files")
    return photos


def _listed(source: Path) -> list[Path]:
    names = [line.strip() for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    # photos_val.txt → photos_val/, photos/; then the folder itself.
    stems = [source.stem, source.stem.rsplit("_", 1)[0]]
    folders = [*(source.parent / stem for stem in stems), source.parent]
    found = []
    for name in names:
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise DataError(f"{source} lists {name}, which is in none of: {', '.join(map(str, folders))}")
        found.append(path)
    return found


def pair_photos(lq: Path, gt: Path) -> list[tuple[Path, Path]]:
    """Pair two folders by file name without suffix, never by order.

    Raises:
        DataError: naming the first photo without a partner.
    """
    by_name = {path.stem: path for path in find_photos(gt)}
    photos = find_photos(lq)
    names = {path.stem for path in photos}
    for name in sorted(names ^ set(by_name)):
        has, lacks = (lq, gt) if name in names else (gt, lq)
        raise DataError(f"{name} is in {has} but not in {lacks}; pairs need the same name")
    return [(path, by_name[path.stem]) for path in photos]


def require_size(photos: list[Path], side: int) -> None:
    """Raise DataError naming the first photo smaller than `side` pixels; reads headers only."""
    for path in photos:
        try:
            with Image.open(path) as image:
                width, height = image.size
        except OSError:
            raise DataError(f"{path} cannot be read as a photo; take it out of the folder") from None
        if min(width, height) < side:
            raise DataError(
                f"{path} is {width}×{height}; crops need at least {side}×{side}: "
                "take it out or make data.patch smaller"
            )
