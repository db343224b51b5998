"""The page: fields on the left, the photo before and after on the right.

Every button calls a generator. It yields how far the work is; closing it (the cancel button, a visitor who
has gone) stops the work.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError

from dirformer.app import filling
from dirformer.app.background import Share, in_thread
from dirformer.app.fields import (
    FILES,
    LOOKS,
    NOTHING,
    QUIET,
    Fields,
    buttons,
    computing,
    details,
    examples,
    failed,
    how,
    outcome,
    refused,
    status,
)
from dirformer.app.one import News, restored, show_upload, shown
from dirformer.app.wishes import CHOOSE, FORMATS, TASK_WORDS, Limits
from dirformer.app.work import folder, restore_batch
from dirformer.ground.errors import ConfigError, DirformerError, PhotoError

log = logging.getLogger(__name__)

TITLE = "dirformer: restore photos"
CSS = """
.status { min-height: 1.5em; margin: 0; overflow-wrap: anywhere }
.status.error { color: var(--error-text-color, #b91c1c); font-weight: 600 }
.status progress { width: 100%; height: .8em }
footer { display: none !important }
"""
_UPLOAD = "files are uploaded first, as handle_file of gradio_client does"
_ABOUT = "# dirformer\nRestore photos on this computer. Nothing is sent anywhere else."
_CLIENT = """Five lines, with the package `gradio_client`:

```python
from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")
output, report = client.predict(handle_file("photo.jpg"), api_name="/restore")
print(output, report)
```

Also `task`, `look`, `size`, `strength`, `seed`, `format` and, for holes, `mask=handle_file("hole.png")`.
"""


class _Page(gr.Blocks):
    """Blocks that say in one line why they do not take a value; Gradio tells a program nothing."""

    async def preprocess_data(self, *arguments: Any, **options: Any) -> list[Any]:
        """Return the values of an event as its function takes them."""
        try:
            values: list[Any] = await super().preprocess_data(*arguments, **options)
        except gr.Error:
            raise
        except InvalidPathError:
            raise failed(PhotoError(f"a file is named that was not uploaded; {_UPLOAD}")) from None
        except Exception:
            log.debug("a value was refused", exc_info=True)
            line = (
                f"a value is not of its field's kind; expected text, a number or a file as stated; {_UPLOAD}"
            )
            raise failed(ConfigError(line)) from None
        return values


def build(limits: Limits) -> gr.Blocks:
    """Return the page.

    Args:
        limits: what its owner allows.
    """
    with _Page(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_ABOUT)
        with gr.Tab("Restore"):
            _restore_tab(limits)
        with gr.Tab("Fill holes"):
            filling.tab(limits)
        with gr.Tab("Many photos"):
            _batch_tab(limits)
        with gr.Tab("From a program"):
            gr.Markdown(_CLIENT)
            _api(limits)
    return page


def _restore_tab(limits: Limits) -> None:
    with gr.Row():
        with gr.Column(min_width=280):
            photo = gr.File(label="Photo", file_types=FILES, height=140)
            examples("restore_*.jpg", [photo])
            start, stop = buttons("Restore")
            rows = how()
            about = "Shrinking the result gives the photo back (enlarging only)."
            rows["consistent"] = gr.Checkbox(label="Consistent", info=about)
            fields = Fields.of(rows | details(samples=True))
        with gr.Column(scale=2, min_width=320):
            outputs = outcome()

    def on_restore(name: str | None, *values: Any) -> Generator[News]:
        yield from shown(restored(name, fields.wishes(values), limits))

    def show(name: str | None) -> News:
        return show_upload(name, limits)

    photo.change(show, photo, outputs, **QUIET)
    computing(start, stop, on_restore, [photo, *fields.fields], outputs)


def _batch_tab(limits: Limits) -> None:
    with gr.Row():
        with gr.Column(min_width=280):
            photos = gr.File(label="Photos", file_types=FILES, file_count="multiple", height=200)
            start, stop = buttons("Restore all")
            fields = Fields.of(how() | details(samples=False))
        with gr.Column(scale=2, min_width=320):
            outputs = [gr.HTML(NOTHING), gr.File(label="Results (zip)", interactive=False)]

    def on_batch(names: list[str] | None, *values: Any) -> Generator[tuple[Any, Any]]:
        paths = [Path(name) for name in names or []]
        with folder(limits) as place:
            work = in_thread(lambda t: restore_batch(paths, place, fields.wishes(values), limits, progress=t))
            try:
                with contextlib.closing(work):
                    for news in work:
                        if isinstance(news, Share):
                            yield status(news), gr.skip()
                        else:
                            archive = None if news.archive is None else str(news.archive)
                            yield "".join(map(status, news.lines)), archive
            except DirformerError as error:
                yield refused(error), gr.skip()

    computing(start, stop, on_batch, [photos, *fields.fields], outputs)


def _api(limits: Limits) -> None:
    """Offer `/restore` to programs."""
    photo, mask = gr.File(label="photo", visible=False), gr.File(label="mask", visible=False)
    rows = {
        "task": gr.Dropdown(list(TASK_WORDS), value=CHOOSE, label="task", visible=False),
        "look": gr.Radio(LOOKS, value=LOOKS[0], label="look", visible=False),
        "size": gr.Textbox("", label="size", visible=False),
        "strength": gr.Number(1, label="strength", visible=False),
        "seed": gr.Number(0, label="seed", visible=False),
        "format": gr.Dropdown(list(FORMATS), value="same", label="format", visible=False),
    }
    fields = Fields.of(rows)
    output, report = gr.File(label="output", visible=False), gr.Textbox(label="report", visible=False)

    def restore(
        photo: str | None,
        task: str = CHOOSE,
        look: str = LOOKS[0],
        size: str = "",
        strength: float = 1.0,
        seed: float = 0,
        format: str = "same",  # noqa: A002
        mask: str | None = None,
    ) -> Generator[tuple[Any, Any]]:
        wishes = fields.wishes((task, look, size, strength, seed, format))
        hole = None if mask is None else Path(mask)
        try:
            for news in restored(photo, wishes, limits, lambda *_: hole):
                if not isinstance(news, Share):
                    yield str(news.result.output), news.line
        except DirformerError as error:
            raise failed(error) from None

    gr.Button(visible=False).click(
        restore, [photo, *fields.fields, mask], [output, report], api_name="restore", concurrency_limit=None
    )
