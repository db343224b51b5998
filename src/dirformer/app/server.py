"""Serving the page: local by default, nothing loaded from elsewhere, temporary files removed at the end."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dirformer.app.wishes import Limits
from dirformer.ground.errors import ConfigError, MissingExtraError

HOST, PORT = "127.0.0.1", 7860
MOST_WAITING = 64
"""Visitors in the queue; more are told to come back."""
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "monospace")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)
"""The browser itself refuses every request to another host."""


@contextlib.contextmanager
def serving(limits: Limits, host: str = HOST, port: int | None = None) -> Iterator[str]:
    """Serve the page as long as the block runs; yield its address.

    Args:
        limits: what visitors may do.
        host: address to listen on; 127.0.0.1 is this computer alone.
        port: None takes the first free one from 7860 on.

    Raises:
        MissingExtraError: without Gradio.
        ConfigError: if the address cannot be used.
    """
    kept = Path(tempfile.mkdtemp(prefix="dirformer-app-"))
    before = {name: os.environ.get(name) for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED")}
    os.environ |= {"GRADIO_TEMP_DIR": str(kept / "files"), "GRADIO_ANALYTICS_ENABLED": "False"}
    (kept / "requests").mkdir()
    try:
        page = _launched(replace(limits, scratch=kept / "requests"), host, port)
        try:
            yield page.local_url
        finally:
            page.close(verbose=False)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(kept, ignore_errors=True)


def _launched(limits: Limits, host: str, port: int | None) -> Any:
    try:
        import gradio as gr
        from starlette.middleware import Middleware
    except ImportError:
        raise MissingExtraError("gradio", "app") from None
    from dirformer.app.page import CSS, build

    page = build(limits)
    hosts = [Middleware(_LocalHosts, host)] if is_local(host) else []
    # A queue for each device: what computes runs one by one, in the order of arrival.
    page.queue(default_concurrency_limit=1, max_size=MOST_WAITING)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            max_file_size=limits.max_upload,
            theme=gr.themes.Default(font=_FONTS, font_mono=_MONO),
            css=CSS,
            app_kwargs={"middleware": [Middleware(_Policy), *hosts]},
        )
    except OSError as error:
        at = "" if port is None else f":{port}"
        raise ConfigError(f"{host}{at} cannot be listened on: {error}; give another --port") from None
    return page


def is_local(host: str) -> bool:
    """Return whether only this computer can reach what listens on an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host.lower() == "localhost"


class _LocalHosts:
    """Answers requests for this computer's own names alone, whatever the port.

    A page from elsewhere may let its name lead here (DNS rebinding); the browser then sends that name.
    """

    def __init__(self, app: Any, host: str) -> None:
        self.app = app
        self.names = {"localhost", "127.0.0.1", "[::1]", host.lower(), f"[{host.strip('[]').lower()}]"}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = next((value for name, value in scope.get("headers", ()) if name == b"host"), b"")
        name = re.sub(r":[0-9]*$", "", given.decode("latin-1").lower())
        if scope["type"] == "lifespan" or name in self.names:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            line = (
                b"this page answers to localhost and 127.0.0.1 alone; start it with --host to let others in\n"
            )
            kind = (b"content-type", b"text/plain; charset=utf-8")
            await send({"type": "http.response.start", "status": 403, "headers": [kind]})
            await send({"type": "http.response.body", "body": line})


class _Policy:
    """Adds the policy to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = {
                    b"content-security-policy": _POLICY.encode(),
                    b"referrer-policy": b"no-referrer",
                    b"x-content-type-options": b"nosniff",
                }
                message["headers"] = [*message.get("headers", []), *extra.items()]
            await send(message)

        await self.app(scope, receive, sending)
