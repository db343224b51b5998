"""An S3 server on loopback, and what lies at addresses and in folders, for tests of several rooms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import fsspec

SECRET = "xSecretKeyOfTheTestx"
_SERVER = """
import json, sys, warnings
warnings.simplefilter("ignore")
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(json.dumps(server.get_host_and_port()), flush=True)
sys.stdin.read()
server.stop()
"""


@contextmanager
def s3_server(*buckets: str) -> Iterator[str]:
    """Start a server with some buckets; yield its address, which the environment names while it runs."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        host, port = json.loads(server.stdout.readline())
        settings = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with mock.patch.dict(os.environ, settings):
            import fsspec
            import s3fs

            # File systems are kept, with the address of the server that was there when they were made.
            s3fs.S3FileSystem.clear_instance_cache()
            store = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
            for bucket in buckets:
                store.mkdir(bucket)
            yield settings["AWS_ENDPOINT_URL"]
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait(30)


def upload(folder: Path, url: str) -> None:
    """Put a file, or all files below a folder, to an address."""
    store, path = fsspec.core.url_to_fs(url)
    for file in folder.rglob("*") if folder.is_dir() else [folder]:
        if file.is_file():
            name = file.relative_to(folder).as_posix() if folder.is_dir() else file.name
            store.pipe_file(f"{path}/{name}", file.read_bytes())


def files(url: str) -> dict[str, bytes]:
    """What lies at an address, without the records."""
    store, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    found = {name[len(path) + 1 :]: name for name in store.find(path)}
    return {name: store.cat_file(key) for name, key in found.items() if not name.startswith(".dirformer")}


def local(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, without the records."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".dirformer")}
