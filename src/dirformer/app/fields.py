"""Fields of the page, and what their values mean."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dirformer.app.background import Share
from dirformer.app.wishes import FORMATS, MOST_SAMPLES, TASK_WORDS, Wishes
from dirformer.ground.errors import DirformerError
from dirformer.ground.formats import SUFFIXES

FILES = ["image", *SUFFIXES]
"""What a browser offers to upload."""
LOOKS = ("faithful", "sharp")
NOTHING = '<p class="status" role="status"></p>'
EXAMPLES = Path(__file__).parent / "examples"
_QUEUE = "device"
"""Of all buttons that compute."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Fields:
    """The fields that say how to restore, by names of `Wishes`; `look` stands for `sharp`."""

    names: tuple[str, ...]
    fields: tuple[Any, ...]

    @classmethod
    def of(cls, rows: dict[str, Any]) -> Fields:
        """Take fields by name."""
        return cls(tuple(rows), tuple(rows.values()))

    def wishes(self, values: tuple[Any, ...]) -> Wishes:
        """Return what the fields hold. A field that was emptied is as at the start."""
        given = {n: v for n, v in zip(self.names, values, strict=True) if v is not None}
        given["sharp"] = given.pop("look", LOOKS[0]) == LOOKS[1]
        return Wishes(**given)


def how() -> dict[str, Any]:
    """Return the fields of one photo and of many."""
    about = "Small photos are enlarged, others cleaned."
    blend = "0 is the photo as it is, 1 the full result."
    invented = "Sharp has more texture; some of it is invented."
    return {
        "task": gr.Dropdown(list(TASK_WORDS), value=TASK_WORDS[0], label="Task", info=about),
        "look": gr.Radio(LOOKS, value=LOOKS[0], label="Look", info=invented),
        "strength": gr.Slider(0, 1, value=1, step=0.05, label="Strength", info=blend),
        "size": gr.Textbox(label="Size", placeholder="x2, x4, 1920x, x1080", max_lines=1),
    }


def details(*, samples: bool) -> dict[str, Any]:
    """Return the fields that few visitors need, folded away."""
    with gr.Accordion("Details", open=False):
        rows = {
            "format": gr.Dropdown(list(FORMATS), value="same", label="Format of the result"),
            "quality": gr.Number(label="Quality", info="1 to 100; empty: as the photo's."),
            "strip_metadata": gr.Checkbox(label="Leave metadata out (GPS, camera)"),
            "seed": gr.Number(0, label="Seed", info="Another seed is another draw."),
            "memory": gr.Textbox(label="Memory limit", placeholder="2GiB", max_lines=1),
        }
        if samples:
            about = "Mean of several draws, with their spread."
            rows["samples"] = gr.Slider(1, MOST_SAMPLES, value=1, step=1, label="Samples", info=about)
    return rows


def buttons(label: str) -> tuple[Any, Any]:
    """Return a button that starts and one that cancels."""
    with gr.Row():
        start = gr.Button(label, variant="primary")
        stop = gr.Button("Cancel")
    return start, stop


def examples(pattern: str, inputs: list[Any]) -> None:
    """Offer the package's own photos, with their masks where two fields take them."""
    photos = sorted(EXAMPLES.glob(pattern))
    rows = [[str(path), str(path.with_suffix(".png"))][: len(inputs)] for path in photos]
    gr.Examples(rows, inputs, label="Examples", cache_examples=False, api_visibility="private")


def outcome() -> list[Any]:
    """Return status, before and after, download and spread of one photo."""
    return [
        gr.HTML(NOTHING),
        gr.ImageSlider(label="Before and after", type="filepath", interactive=False, buttons=["fullscreen"]),
        gr.File(label="Result, full size", interactive=False, visible=False),
        gr.Image(label="How far the samples spread", visible=False, interactive=False, type="filepath"),
    ]


def status(news: Share | str) -> str:
    """Return a line of words, or a bar with the seconds that are left."""
    if isinstance(news, str):
        return f'<p class="status" role="status">{html.escape(news)}</p>'
    left = "" if news.left is None else f", about {max(1, round(news.left))} s left"
    percent = round(100 * news.done)
    words = "waiting for its turn" if news.done == 0 else f"{percent} %{left}"
    return (
        f'<p class="status" role="status"><progress max="100" value="{percent}" aria-label="progress">'
        f"</progress>{words}</p>"
    )


def failed(error: DirformerError) -> gr.Error:
    """Return an error as programs get it."""
    return gr.Error(str(error), print_exception=False)


def refused(error: DirformerError) -> str:
    """Return an error as a line of the page, in the words of the command line."""
    return f'<p class="status error" role="alert">{html.escape(str(error))}</p>'


def computing(start: Any, stop: Any, run: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    """Let a button compute by a generator, and another end it.

    The generator's own thread waits for the device, so any number of visitors may wait at once.
    """
    event = start.click(run, inputs, outputs, concurrency_id=_QUEUE, concurrency_limit=None, **QUIET)
    told = lambda: status("cancelled")  # noqa: E731
    stop.click(told, None, outputs[0], cancels=[event], queue=False, **QUIET)
