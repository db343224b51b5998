"""Names on the command line → one job a photo; torch is not needed for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dirformer.ground.errors import ConfigError, DirformerError, OutputError, PhotoError
from dirformer.ground.formats import (
    FORMAT_SUFFIXES,
    MAX_PIXELS,
    SUFFIXES,
    WRITTEN,
    check_suffix,
    count_pages,
    kind_of_name,
    left_out,
    list_photos,
)
from dirformer.ground.mask_names import masks_by_name, split_masks

SAME = "same"


@dataclass(frozen=True)
class FileOptions:
    """How photos and masks are read and results written. A ConfigError names field, value and rule."""

    quality: int | None = None
    """1 to 100, of JPEG, WebP and AVIF; None is that of the input."""
    format: str = SAME
    """`png`, `jpeg`, `webp`, `tiff`, `avif`, or `same` as the input."""
    pages: bool = False
    """Restore every page of a TIFF and frame of an animation, each to a file `NAME_p001`."""
    strip_metadata: bool = False
    """Leave EXIF, XMP and resolution out of the result; the colour profile stays."""
    max_pixels: int = MAX_PIXELS
    """Larger photos are refused from their header."""
    dilate: int = 0
    """Pixels by which a hole grows in all directions."""
    feather: int = 0
    """Pixels at the edge of a hole over which the result is blended in."""
    extend: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels to paint beyond the left, top, right and bottom edge."""

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}; expected 1 to 100")
        if self.format not in (SAME, *FORMAT_SUFFIXES):
            raise ConfigError(
                f"format is {self.format!r}; expected one of {SAME}, {', '.join(FORMAT_SUFFIXES)}"
            )
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels is {self.max_pixels}; expected at least 1")
        for name in ("dilate", "feather"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 pixels or more")
        if len(self.extend) != 4 or min(self.extend) < 0:
            raise ConfigError(f"extend is {self.extend}; expected four numbers of pixels, 0 or more")


def parse_extend(text: str | None) -> tuple[int, int, int, int]:
    """Read `LEFT,TOP,RIGHT,BOTTOM` in pixels. Raises ConfigError for anything else."""
    if text is None:
        return (0, 0, 0, 0)
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise ConfigError(
            f"--extend is {text!r}; expected LEFT,TOP,RIGHT,BOTTOM in pixels, such as 0,64,0,64"
        )
    left, top, right, bottom = (int(part) for part in parts)
    return left, top, right, bottom


@dataclass(frozen=True)
class Job:
    """One photo to restore."""

    photo: Path
    output: Path
    mask: Path | None = None
    page: int = 0
    """Of a TIFF or an animation."""


def plan_jobs(
    inputs: list[Path],
    out: Path,
    *,
    mask: Path | None = None,
    overwrite: bool = False,
    options: FileOptions | None = None,
) -> tuple[list[Job], list[DirformerError]]:
    """Turn files and folders into jobs, and into errors for what cannot be one.

    A single file goes to the file `out` if `out` has a photo's suffix; otherwise `out` is a folder, and
    results keep their names (as PNG where the suffix cannot be written). `mask` is one mask for all, or a
    folder of masks named like the photos; masks among the photos of a folder are not taken for photos.

    Raises:
        ConfigError: if several photos are asked into one file, or `out` and the format differ.
        OutputError: if `out` names a format that cannot be written.
    """
    options = options or FileOptions()
    errors: list[DirformerError] = []
    photos = _photos(inputs, errors)
    one_file = _is_one_file(out, options)
    if one_file and (len(photos) > 1 or any(path.is_dir() for path in inputs)):
        raise ConfigError(f"{len(photos)} photos cannot go into the one file {out}; give a folder: -o DIR")
    if not photos and not errors:
        errors.append(
            PhotoError(f"no photos in {', '.join(map(str, inputs))}; expected {', '.join(SUFFIXES)} files")
        )
    find_mask = _Masks(mask)
    jobs: list[Job] = []
    taken: dict[Path, Path] = {}
    for photo in photos:
        try:
            pages = count_pages(photo) if options.pages else 1
            _require_one(photo, out, 1 if not one_file else pages)
            hole = find_mask(photo)
            for page in range(pages):
                name = _output_name(photo, page if pages > 1 else None, options)
                output = out if one_file else out / name
                _require_free(photo, output, taken, overwrite=overwrite)
                taken[output] = photo
                jobs.append(Job(photo, output, hole, page))
        except ConfigError:
            raise
        except DirformerError as error:
            errors.append(error)
    return jobs, errors


def notes_on(inputs: list[Path]) -> list[str]:
    """Return a line for each thing in the folders given that is not restored: raw files, masks."""
    notes = []
    for folder in inputs:
        if not folder.is_dir():
            continue
        try:
            line, masks = left_out(folder), split_masks(list_photos(folder))[1]
        except OSError:
            continue  # named as an error
        if line is not None:
            notes.append(line)
        if masks:
            notes.append(f"{folder}: {len(masks)} masks (NAME_mask… beside NAME) are not restored as photos")
    return notes


def _photos(inputs: list[Path], errors: list[DirformerError]) -> list[Path]:
    photos: list[Path] = []
    for path in inputs:
        if path.is_dir():
            try:
                photos += split_masks(list_photos(path))[0]
            except OSError as error:
                errors.append(PhotoError(f"{path} cannot be opened: {error.strerror}; give another folder"))
        elif kind_of_name(path) == "raw":
            # Many raw files are TIFFs, and what a TIFF reader finds in them is a thumbnail.
            errors.append(PhotoError(f"{path} is a camera's raw file; develop it to TIFF or PNG first"))
        else:
            photos.append(path)
    return photos


def _is_one_file(out: Path, options: FileOptions) -> bool:
    if _exists(out) and out.is_dir():
        return False
    if out.suffix.lower() not in WRITTEN:
        if kind_of_name(out) != "other":
            check_suffix(out)
        return False
    if options.format != SAME and WRITTEN[out.suffix.lower()] != WRITTEN[FORMAT_SUFFIXES[options.format]]:
        raise ConfigError(f"--format is {options.format}, but {out} is another; leave one of them out")
    return True


def _require_one(photo: Path, out: Path, pages: int) -> None:
    if pages > 1:
        raise ConfigError(f"{photo} has {pages} pages, not for the one file {out}; give a folder: -o DIR")


def _output_name(photo: Path, page: int | None, options: FileOptions) -> str:
    suffix = photo.suffix if photo.suffix.lower() in WRITTEN else ".png"
    if options.format != SAME and WRITTEN[suffix.lower()] != WRITTEN[FORMAT_SUFFIXES[options.format]]:
        suffix = FORMAT_SUFFIXES[options.format]
    return f"{photo.stem}{'' if page is None else f'_p{page + 1:03}'}{suffix}"


def _require_free(photo: Path, output: Path, taken: dict[Path, Path], *, overwrite: bool) -> None:
    if output in taken:
        raise OutputError(f"{photo} and {taken[output]} would both be written to {output}; rename one")
    if not overwrite and _exists(output):
        raise OutputError(f"{output} exists already; add --overwrite to replace it")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # too long a name, or no right to look: writing will say which


class _Masks:
    """The mask of each photo: one for all, or found by name in a folder that is listed once."""

    def __init__(self, mask: Path | None) -> None:
        self._mask, self._named, self._beside = mask, dict[str, Path](), dict[str, Path]()
        if mask is not None and mask.is_dir():
            try:
                every = list_photos(mask)
            except OSError as error:
                raise PhotoError(f"{mask} cannot be opened: {error.strerror}; give another folder") from None
            self._named = masks_by_name(every)
            # Where photos and masks share a folder, only NAME_mask… is a mask.
            self._beside = masks_by_name(split_masks(every)[1])

    def __call__(self, photo: Path) -> Path | None:
        if self._mask is None or not self._mask.is_dir():
            return self._mask
        shared = photo.parent.resolve() == self._mask.resolve()
        named = self._beside if shared else self._named
        if photo.stem not in named:
            raise PhotoError(
                f"{photo} has no mask of the same name in {self._mask}; expected {photo.stem}.png or "
                f"{photo.stem}_mask001.png"
            )
        return named[photo.stem]
