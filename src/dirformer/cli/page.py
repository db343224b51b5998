"""`app`: the web page."""

from __future__ import annotations

import contextlib
import threading
from typing import Annotated

import typer

from dirformer.app.wishes import MAX_PIXELS, Limits
from dirformer.cli.batch import terminable
from dirformer.cli.options import Device
from dirformer.cli.photo_options import Memory
from dirformer.cli.terminal import say
from dirformer.ground.errors import ConfigError
from dirformer.inference.options import RestoreOptions, parse_bytes


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets the whole network in.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860 on.")] = None,
    device: Device = "auto",
    max_memory: Memory = None,
    max_pixels: Annotated[int, typer.Option(help="Photos with more pixels are refused.")] = MAX_PIXELS,
    max_upload: Annotated[str, typer.Option(help="The largest file that is taken.")] = "200MB",
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Open a page in the browser to restore photos; nothing leaves this computer."""
    RestoreOptions(device=device, max_memory=max_memory)
    if port is not None and not 1 <= port <= 65535:
        raise ConfigError(f"--port is {port}; expected 1 to 65535")
    if max_pixels < 1:
        raise ConfigError(f"--max-pixels is {max_pixels}; expected at least 1")
    limits = Limits(max_pixels, parse_bytes(max_upload), max_memory, device)
    from dirformer.app.server import serving

    say("the page is being started, a few seconds")
    with terminable(), contextlib.suppress(KeyboardInterrupt), serving(limits, host, port) as address:
        say(f"open {address} in a browser; Ctrl-C ends the page")
        if browser:
            import webbrowser

            webbrowser.open(address)
        threading.Event().wait()
    say("the page is closed")
