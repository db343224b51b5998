"""One photo: from the page's fields to status, before and after, and download."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from dirformer.app.background import Share, in_thread
from dirformer.app.fields import NOTHING, refused, status
from dirformer.app.pictures import SIDE, before_and_after, preview
from dirformer.app.wishes import Limits, Wishes
from dirformer.app.work import Result, described, folder, restore_upload, without_folders
from dirformer.ground.errors import ConfigError, DirformerError, PhotoError

News = tuple[Any, Any, Any, Any]
"""What the page shows: status, before and after, download, spread."""


@dataclass(frozen=True)
class Restored:
    """A result, with small pictures of the photo before and after."""

    result: Result
    pictures: tuple[str, str]

    @property
    def line(self) -> str:
        """Model, time, and what reading and writing have changed."""
        return "; ".join((f"{self.result.model}, {self.result.seconds:.1f} s", *self.result.notes))


MakeMask = Callable[[Path, Path], Path | None]
"""Photo and folder of the request → mask, if there is one."""


def show_upload(photo: str | None, limits: Limits) -> tuple[str, Any, Any, Any]:
    """Return what an uploaded photo is, and the photo itself; or why it is refused. Earlier results go."""
    gone = gr.update(value=None, visible=False)
    if photo is None:
        return NOTHING, None, gone, gone
    try:
        line, picture = opened(Path(photo), limits)
    except DirformerError as error:
        return refused(error), None, gone, gone
    return status(line), (picture, picture), gone, gone


def opened(photo: Path, limits: Limits, side: int = SIDE) -> tuple[str, Image.Image]:
    """Return what an uploaded photo is, and a picture of it whose longest side is at most `side`.

    Raises:
        PhotoError: if it cannot be read, or is too large by its header.
    """
    line = described(photo, limits)
    try:
        return line, preview(photo, side, max_pixels=limits.max_pixels)
    except DirformerError as error:
        raise PhotoError(without_folders(str(error), photo)) from None


def shown(news: Generator[Share | Restored, None, None]) -> Generator[News, None, None]:
    """Pass on how far the work is, and its result, as the page shows them; an error becomes its line."""
    with contextlib.closing(news):
        try:
            for each in news:
                if isinstance(each, Share):
                    yield status(each), gr.skip(), gr.skip(), gr.skip()
                    continue
                output, spread = each.result.output, each.result.spread
                yield (
                    status(each.line),
                    each.pictures,
                    gr.update(value=str(output), visible=True),
                    gr.update(value=spread and str(spread), visible=spread is not None),
                )
        except DirformerError as error:
            yield refused(error), gr.skip(), gr.skip(), gr.skip()


def restored(
    photo: str | None, wishes: Wishes, limits: Limits, make_mask: MakeMask | None = None
) -> Generator[Share | Restored, None, None]:
    """Restore an uploaded photo, and yield how far the work is, then the result; its files live until then.

    Raises:
        DirformerError: with the line of the command line.
    """
    if not photo:
        raise ConfigError("no photo is given; drop one on the page first")
    path = Path(photo)
    with folder(limits) as place:
        described(path, limits)
        mask = None if make_mask is None else make_mask(path, place)
        if mask is not None:
            described(mask, limits)  # a mask is decoded like a photo, and may not be larger
        work = in_thread(lambda told: restore_upload(path, place, wishes, limits, mask=mask, progress=told))
        with contextlib.closing(work):
            for news in work:
                if isinstance(news, Share):
                    yield news
                else:
                    extend = wishes.file_options(limits).extend
                    yield Restored(news, before_and_after(path, news.output, place, extend))
