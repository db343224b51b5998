"""Weights of a worker: files of its machine, or fetched from an address once."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from dirformer.ground.errors import CheckpointError, PhotoError
from dirformer.ground.places import Place, address_in, is_url, shown
from dirformer.inference.done import digest_file
from dirformer.weights.catalog import find_weights


def weights_here(name: str) -> str:
    """Return the name of weights on this machine: those at an address are fetched, and go with the process.

    Args:
        name: of a model, as `restore` or `evaluate` takes it.

    Raises:
        CheckpointError: if they are not there, or cannot be had.
    """
    before, url, behind = address_in(name)
    if not url:
        return name
    place = Place(url)
    folder = tempfile.mkdtemp(prefix="dirformer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    here = Path(folder) / Path(str(place)).name
    try:
        place.fetch_all(here)
    except PhotoError as error:
        raise CheckpointError(str(error)) from None
    return f"{before}{here}{behind}"


def shown_weights(name: str) -> str:
    """Return the name of weights for people: an address in it is without secrets."""
    before, url, behind = address_in(name)
    return f"{before}{shown(url)}{behind}" if url else name


def weights_version(name: str) -> str:
    """Return what changes with the weights: their digest, at an address what the store says.

    Raises:
        CheckpointError: if they are not there.
    """
    if not is_url(name):
        return digest_file(find_weights(name))
    found = Place(name).entry()
    if found is None:
        raise CheckpointError(f"no model at {Place(name)}; give an address that exists")
    return found.version
