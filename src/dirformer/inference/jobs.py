"""Names on the command line → one job a photo; torch is not needed for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dirformer.ground import checks
from dirformer.ground.errors import ConfigError, DirformerError, OutputError, PhotoError
from dirformer.ground.formats import (
    FORMAT_SUFFIXES,
    MAX_PIXELS,
    SUFFIXES,
    WRITTEN,
    check_suffix,
    count_pages,
    kind_of_name,
    list_photos,
)
from dirformer.ground.mask_names import masks_by_name, split_masks
from dirformer.ground.paths import is_folder, is_there
from dirformer.inference.done import DoneLog
from dirformer.inference.listing import Found, find_inputs, require_local
from dirformer.inference.sizes import Box, checked_box, checked_scale, factor_for

SAME = "same"
MOST_GROWTH = 65_535
"""Pixels by which holes and photos may grow: the longest side of a JPEG."""
PIPE = Path("-")
"""What stands for standard input and output on the command line."""


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
    scale: float | None = None
    """Factor from photo to result, above 0 and at most 16; None is the network's."""
    box: Box | None = None
    """Width and height that results must fit in, in pixels; None among them is free."""

    def __post_init__(self) -> None:
        checks.settle(
            self,
            format=checks.choice("format", self.format, (SAME, *FORMAT_SUFFIXES)),
            pages=checks.flag("pages", self.pages),
            strip_metadata=checks.flag("strip_metadata", self.strip_metadata),
            max_pixels=checks.whole("max_pixels", self.max_pixels, 1),
            dilate=checks.whole("dilate", self.dilate, 0, MOST_GROWTH, of="pixels"),
            feather=checks.whole("feather", self.feather, 0, MOST_GROWTH, of="pixels"),
            extend=_checked_extend(self.extend),
            scale=checked_scale(self.scale),
            box=checked_box(self.box),
        )
        if self.quality is not None:
            checks.settle(self, quality=checks.whole("quality", self.quality, 1, 100))
        if self.scale is not None and self.box is not None:
            raise ConfigError(
                "scale and size are both given; expected one of them: leave --scale or --size out"
            )
        if any(self.extend) and (self.scale is not None or self.box is not None):
            raise ConfigError("extend is given together with scale or size; do one after the other")

    def factor(self, width: int, height: int) -> float | None:
        """Return the factor for a photo of that size; None is the network's. Raises PhotoError beyond 16."""
        return factor_for(self.scale, self.box, width, height)


def _checked_extend(extend: object) -> tuple[int, int, int, int]:
    if not isinstance(extend, tuple | list) or len(extend) != 4:
        raise checks.refused("extend", extend, "four numbers of pixels, 0 or more")
    left, top, right, bottom = (
        checks.whole("a number of extend", side, 0, MOST_GROWTH, of="pixels") for side in extend
    )
    return left, top, right, bottom


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
    spread: Path | None = None
    """Where the map of how far several draws differ goes, if it is to be kept."""

    @property
    def written(self) -> list[Path]:
        """All files that the job writes."""
        return [self.output] if self.spread is None else [self.output, self.spread]

    @property
    def named(self) -> list[Path]:
        """All files that the job reads or writes."""
        return [self.photo, *([] if self.mask is None else [self.mask]), *self.written]

    @property
    def is_in_place(self) -> bool:
        """Whether the result goes where the photo is."""
        return is_there(self.output) and self.output.samefile(self.photo)


@dataclass(frozen=True)
class Replace:
    """Which files that exist already may be replaced."""

    overwrite: bool = False
    """Any, but not the photos themselves."""
    in_place: bool = False
    """The photos themselves, by their own results."""
    log: DoneLog | None = None
    """Results of earlier runs, as far as this log knows them."""

    def allows(self, job: Job, path: Path) -> bool:
        """Return whether a job may replace a file that dirformer has not written."""
        return self.overwrite or self.puts_in_place(job, path)

    def puts_in_place(self, job: Job, path: Path) -> bool:
        """Return whether a path is the job's own photo, which its result may replace."""
        return self.in_place and path == job.output and job.is_in_place


@dataclass
class Planned:
    """What is to be done, and what cannot be."""

    jobs: list[Job] = field(default_factory=list)
    errors: list[DirformerError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    """Files of folders that are no photos, counted by suffix."""


def plan_jobs(
    inputs: list[Path],
    out: Path,
    *,
    mask: Path | None = None,
    replace: Replace | None = None,
    options: FileOptions | None = None,
    spread: bool = False,
) -> Planned:
    """Turn files, folders and lists into jobs, and into errors for what cannot be one.

    A single file goes to the file `out` if `out` has a photo's suffix; otherwise `out` is a folder, and
    results keep their names (as PNG where the suffix cannot be written). Folders keep their tree. `mask` is
    one mask for all, or a folder of masks named like the photos; masks among the photos of a folder are not
    taken for photos. `spread` keeps a place beside each result for the map of several draws.

    Raises:
        ConfigError: if several photos are asked into one file, or `out` and the format differ.
        OutputError: if `out` names a format that cannot be written.
    """
    options = options or FileOptions()
    for place in (out, mask):
        if place is not None:
            require_local(place)
    if out == PIPE:
        raise ConfigError("- stands for standard output on the command line only; give the name of a file")
    if mask == PIPE:
        raise ConfigError("the mask is -, but a pipe holds the photo alone; give the name of a file")
    found = find_inputs(inputs, without=[out] if mask is None else [out, mask])
    planned = Planned([], found.errors, found.notes, found.passed)
    folder = is_folder(out)
    one_file = is_one_file(out, options, several=found.many or len(inputs) > 1, folder=folder)
    if not found.photos and not found.errors:
        named = ", ".join(map(str, inputs))
        planned.errors.append(PhotoError(f"no photos in {named}; expected {', '.join(SUFFIXES)} files"))
    places = _Places(out, one_file, options, replace or Replace(), found.photos, spread=spread)
    find_mask = _Masks(mask)
    for photo in found.photos:
        try:
            planned.jobs += places.jobs(photo, find_mask(photo))
        except ConfigError:
            raise
        except DirformerError as error:
            planned.errors.append(error)
    return planned


class _Places:
    """Where each result goes; no two to one place, and none where it must not."""

    def __init__(
        self,
        out: Path,
        one_file: bool,
        options: FileOptions,
        replace: Replace,
        photos: list[Found],
        *,
        spread: bool,
    ) -> None:
        self._out, self._one_file, self._options, self._replace = out, one_file, options, replace
        self._spread = spread
        self._taken: dict[Path, Path] = {}
        self._photos = {found.photo.resolve() for found in photos}

    def jobs(self, found: Found, mask: Path | None) -> list[Job]:
        """Return the jobs of a photo, one a page. Raises OutputError if a place is not free."""
        photo, jobs = found.photo, list[Job]()
        pages = count_pages(photo) if self._options.pages else 1
        if self._one_file and pages > 1:
            raise ConfigError(
                f"{photo} has {pages} pages, not for one file {self._out}; give a folder: -o DIR"
            )
        for page in range(pages):
            name = output_name(photo, page if pages > 1 else None, self._options)
            output = self._out if self._one_file else self._out / found.place / name
            job = Job(photo, output, mask, page, spread_path(output) if self._spread else None)
            for path in job.written:
                self._require_free(job, path)
            self._taken |= dict.fromkeys(job.written, photo)
            jobs.append(job)
        return jobs

    def _require_free(self, job: Job, path: Path) -> None:
        replace, taken = self._replace, self._taken.get(path)
        if taken is not None:
            raise OutputError(f"{job.photo} and {taken} would both be written to {path}; rename one")
        if not is_there(path):
            return
        if path.resolve() in self._photos and not replace.puts_in_place(job, path):
            raise OutputError(
                f"{path} exists already and is one of the photos; give another place, or --in-place to "
                "replace photos by their results"
            )
        known = replace.log is not None and replace.log.knows(path)
        if not (known or replace.allows(job, path)):
            raise OutputError(f"{path} exists already; add --overwrite to replace it")


def is_one_file(out: Path, options: FileOptions, *, several: bool, folder: bool) -> bool:
    """Return whether `out` is the name of one result, by its suffix; else it is a folder, as `folder` says.

    Raises:
        ConfigError: if several photos are asked into one file, or the name and the format differ.
        OutputError: if the name's format cannot be written.
    """
    if folder:
        return False
    if several:
        # A folder may be called results.v1, but hardly out.png.
        if kind_of_name(out) == "photo":
            raise ConfigError(f"several photos cannot go into the one file {out}; give a folder: -o DIR")
        return False
    if out.suffix.lower() not in WRITTEN:
        if kind_of_name(out) != "other":
            check_suffix(out)
        return False
    if options.format != SAME and WRITTEN[out.suffix.lower()] != WRITTEN[FORMAT_SUFFIXES[options.format]]:
        raise ConfigError(f"--format is {options.format}, but {out} is another; leave one of them out")
    return True


def spread_path(output: Path) -> Path:
    """Return where the spread of several draws is written: `NAME_spread.png`."""
    return output.with_name(f"{output.stem}_spread.png")


def output_name(photo: Path, page: int | None, options: FileOptions) -> str:
    """Return the name of a photo's result: its own, as PNG where the suffix cannot be written."""
    suffix = photo.suffix if photo.suffix.lower() in WRITTEN else ".png"
    if options.format != SAME and WRITTEN[suffix.lower()] != WRITTEN[FORMAT_SUFFIXES[options.format]]:
        suffix = FORMAT_SUFFIXES[options.format]
    return f"{photo.stem}{'' if page is None else f'_p{page + 1:03}'}{suffix}"


class _Masks:
    """The mask of each photo: one for all, or found by name in a folder, whose tree may be the photos'."""

    def __init__(self, mask: Path | None) -> None:
        self._mask = mask
        self._listed: dict[tuple[Path, bool], dict[str, Path]] = {}
        if mask is not None and is_folder(mask):
            self._named(mask, shared=False)

    def _named(self, folder: Path, *, shared: bool) -> dict[str, Path]:
        """Return the masks of a folder by photo; where photos lie there too, only NAME_mask… is a mask."""
        if (folder, shared) not in self._listed:
            try:
                every = list_photos(folder) if is_folder(folder) else []
            except OSError as error:
                raise PhotoError(
                    f"{folder} cannot be opened: {error.strerror}; give another folder"
                ) from None
            self._listed[folder, shared] = masks_by_name(split_masks(every)[1] if shared else every)
        return self._listed[folder, shared]

    def __call__(self, found: Found) -> Path | None:
        if self._mask is None or not is_folder(self._mask):
            return self._mask
        photo = found.photo
        for folder in dict.fromkeys((self._mask / found.place, self._mask)):
            shared = photo.parent.resolve() == folder.resolve()
            mask = self._named(folder, shared=shared).get(photo.stem)
            if mask is not None:
                return mask
        raise PhotoError(
            f"{photo} has no mask of the same name in {self._mask}; expected {photo.stem}.png or "
            f"{photo.stem}_mask001.png"
        )
