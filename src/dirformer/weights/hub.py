"""Weights on the Hugging Face Hub, by `owner/name` or `owner/name@revision`: fetched once, then in its cache.

Safetensors only. Neither this file nor its packages import torch before a file is there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dirformer.ground.errors import CheckpointError, MissingExtraError, OutputError

FILE = "model.safetensors"
"""The weights' name in a repository, and in a folder that `save_pretrained` wrote."""
_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95})/([A-Za-z0-9][\w.-]{0,95})(@[\w./-]{1,100})?", re.ASCII)
_FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".onnx")


def is_hub_name(name: str) -> bool:
    """Return whether a text is a name on the hub rather than that of a weight file."""
    return _NAME.fullmatch(name) is not None and not name.endswith(_FILES)


def fetch(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    offline: bool = False,
) -> Path:
    """Return the weight file of a repository, from the hub's cache or, the first time, from the hub.

    Args:
        name: `owner/name`, or `owner/name@revision`.
        revision: branch, tag or commit; replaces the one in `name`.
        cache_dir: where files are kept; None: where all programs of the hub keep theirs.
        token: for private repositories; None: the one that `hf auth login` stored, if any.
        offline: open no connection and take what is in the cache. The environment variable `HF_HUB_OFFLINE=1`
            does the same.

    Raises:
        CheckpointError: if there is no such name, file or permission, or the hub cannot be reached.
        MissingExtraError: if the extra `hub` is not installed.
    """
    hub = require_hub(name)
    repository, _, at = name.partition("@")
    try:
        found = hub.hf_hub_download(
            repository,
            FILE,
            revision=revision or at or None,
            cache_dir=cache_dir,
            token=token,
            local_files_only=offline or hub.constants.HF_HUB_OFFLINE,
            library_name="dirformer",
        )
    except Exception as error:  # noqa: BLE001 - `reason` lets pass what is not the hub's
        raise CheckpointError(f"{name} cannot be had from the hub: {reason(hub, error)}") from None
    return Path(found)


def require_hub(name: str) -> Any:
    """Import huggingface_hub. Raises MissingExtraError, which says why it is asked for."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        package = f"{name} is no file here, and huggingface_hub, which asks the hub for it,"
        raise MissingExtraError(package, "hub") from None
    return huggingface_hub


def reason(hub: Any, error: Exception) -> str:
    """Return in one line why the hub failed, and what to do; raise again what is not the hub's error."""
    errors = hub.errors
    plain = {
        errors.GatedRepoError: "its owner asks for consent; give it on the model's page, then: hf auth login",
        errors.RevisionNotFoundError: "there is no such revision; give a branch, a tag or a commit",
        errors.RepositoryNotFoundError: "there is no such repository, or it is private; then: hf auth login",
        errors.LocalEntryNotFoundError: "it is not in the cache, and there is no connection; go online once",
        errors.EntryNotFoundError: f"it holds no {FILE}, and other kinds of files are not loaded",
        errors.LocalTokenNotFoundError: "it needs a token; log in with: hf auth login",
        errors.HFValidationError: "that is no name of a repository; expected owner/name",
    }
    for kind, text in plain.items():
        if isinstance(error, kind):
            return text
    own = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "hf_xet")
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in own:
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        return f"{first[:200]}; try again, or give a file"
    raise error


def push(folder: Path, name: str, *, private: bool, token: str | None, message: str) -> str:
    """Make the repository if it is not there, upload a folder in one commit, and return the commit's address.

    Raises:
        OutputError: if the hub refuses, or cannot be reached.
        MissingExtraError: if the extra `hub` is not installed.
    """
    hub = require_hub(name)
    if not is_hub_name(name) or "@" in name:
        raise OutputError(f"{name[:100]!r} is no name of a repository; expected owner/name")
    if hub.constants.HF_HUB_OFFLINE:
        raise OutputError(f"{name} cannot be uploaded: HF_HUB_OFFLINE is set; unset it first")
    try:
        api = hub.HfApi(token=token, library_name="dirformer")
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except Exception as error:  # noqa: BLE001 - `reason` lets pass what is not the hub's
        raise OutputError(f"{name} cannot be uploaded: {reason(hub, error)}") from None
    return str(done.commit_url)
