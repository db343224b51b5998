"""The tab for holes: a mask is painted, loaded and saved; the photo can grow beyond its edges."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dirformer.app.fields import (
    FILES,
    NOTHING,
    QUIET,
    Fields,
    buttons,
    computing,
    details,
    outcome,
    refused,
    status,
)
from dirformer.app.fields import examples as offer_examples
from dirformer.app.one import News, opened, restored, shown
from dirformer.app.pictures import CANVAS, painted, with_holes, write_mask
from dirformer.app.wishes import Limits
from dirformer.app.work import described, folder, without_folders
from dirformer.ground.errors import ConfigError, DirformerError, PhotoError
from dirformer.ground.formats import photo_size

_RED = "#ff0000"


@dataclass(frozen=True)
class Painting:
    """What the page holds of a mask."""

    drawn: Any
    """Value of the editor: layers of paint over the photo."""
    file: str | None
    """A mask that was loaded; paint adds to it."""

    def mask(self, photo: Path, place: Path, *, needed: bool = True) -> Path | None:
        """Return the mask as a file, as large as the photo.

        A loaded mask to which nobody has added is that file itself, pixel by pixel.

        Raises:
            PhotoError: if nothing is painted but a mask is needed, or the loaded one is not the photo's.
        """
        try:
            where = painted((self.drawn or {}).get("layers") or [])
        except PhotoError:
            if needed and self.file is None:
                raise
            return None if self.file is None else Path(self.file)
        loaded = None if self.file is None else Path(self.file)
        return write_mask(where, photo_size(photo), place / f"{photo.stem}_mask.png", loaded)


def show(photo: str | None, mask: str | None, limits: Limits) -> tuple[Any, str]:
    """Return a photo as the editor shows it, red where a loaded mask has holes, and a line."""
    if photo is None:
        return None, NOTHING
    try:
        words, picture = opened(Path(photo), limits, CANVAS)
    except DirformerError as error:
        return None, refused(error)
    line = status(words)
    if mask is not None:
        try:
            described(Path(mask), limits)
            picture = with_holes(picture, Path(mask), photo_size(Path(photo)))
        except DirformerError as error:
            line = refused(PhotoError(without_folders(str(error), Path(mask))))
    return {"background": picture, "layers": [], "composite": picture}, line


def save(
    limits: Limits, photo: str | None, drawn: Any, file: str | None
) -> Generator[tuple[Any, Any], None, None]:
    """Offer the mask for download, or say why there is none; yields a line and the file."""
    try:
        if not photo:
            raise ConfigError("no photo is given; drop one on the page first")
        with folder(limits) as place:
            mask = Painting(drawn, file).mask(Path(photo), place)
            yield gr.skip(), gr.update(value=str(mask), visible=True)
    except DirformerError as error:
        yield refused(error), gr.skip()


def tab(limits: Limits) -> None:
    """Lay the tab out and connect it."""
    with gr.Row():
        with gr.Column(min_width=280):
            photo = gr.File(label="Photo", file_types=FILES, height=140)
            loaded = gr.File(label="Mask file (white = hole)", file_types=FILES, height=120)
            offer_examples("fill_*.jpg", [photo, loaded])
            start, stop = buttons("Fill")
            keep = gr.Button("Save mask")
            saved = gr.File(label="Mask, full size", interactive=False, visible=False)
            rows = {
                "dilate": gr.Number(0, label="Grow", info="Pixels.", minimum=0),
                "feather": gr.Number(0, label="Feather", info="Pixels.", minimum=0),
                "extend": gr.Textbox(
                    label="Paint beyond the edges", placeholder="left,top,right,bottom", max_lines=1
                ),
            }
            fields = Fields.of(rows | details(samples=True))
        with gr.Column(scale=2, min_width=320):
            editor = gr.ImageEditor(
                label="Paint over what is to be filled",
                type="pil",
                image_mode="RGBA",
                format="png",
                sources=(),
                transforms=(),
                layers=False,
                brush=gr.Brush(24, colors=[_RED], default_color=_RED, color_mode="fixed"),
                height=520,
            )
            outputs = outcome()

    def fill(name: str | None, drawn: Any, file: str | None, *values: Any) -> Generator[News]:
        wishes = fields.wishes(values)
        painting = Painting(drawn, file)
        # Beyond the edges there is hole enough.
        needed = not wishes.extend.strip()
        yield from shown(
            restored(name, wishes, limits, lambda path, place: painting.mask(path, place, needed=needed))
        )

    def keep_mask(*values: Any) -> Generator[Any]:
        yield from save(limits, *values)

    def both(name: str | None, mask: str | None) -> tuple[Any, str]:
        return show(name, mask, limits)

    for changed in (photo, loaded):
        changed.change(both, [photo, loaded], [editor, outputs[0]], **QUIET)
    given = [photo, editor, loaded]
    keep.click(keep_mask, given, [outputs[0], saved], **QUIET)
    computing(start, stop, fill, [*given, *fields.fields], outputs)
