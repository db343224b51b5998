"""What restores the photos of an order in a worker; it needs torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dirformer.fleet.order import Made, Maker, Staged
from dirformer.fleet.weights import weights_here
from dirformer.ground.errors import PhotoError
from dirformer.ground.mask_names import masks_by_name
from dirformer.ground.places import Place
from dirformer.inference.choice import Keys, by_model
from dirformer.inference.files import FileRun, Ready, Worked, read_job, work_on, write_result
from dirformer.inference.jobs import FileOptions, Job
from dirformer.inference.options import RestoreOptions
from dirformer.inference.restorer import Restorer, open_restorer


@dataclass(frozen=True)
class _Ready:
    restorer: Restorer
    job: Job
    read: Ready
    input: str
    """Digest of the photo and its mask."""


@dataclass(frozen=True)
class _Worked:
    ready: _Ready
    worked: Worked


class RestoreMaker(Maker):
    """Restores photos; networks stay loaded."""

    def __init__(
        self,
        *,
        model: str | None,
        task: str | None,
        sharp: bool,
        seed: int,
        options: RestoreOptions,
        files: FileOptions,
        masks: Place | None,
    ) -> None:
        self._given, self._model = model, None if model is None else weights_here(model)
        self._task, self._sharp, self._seed = task, sharp, seed
        self._options, self._files, self._place = options, files, masks
        self._restorers: dict[str, tuple[Restorer, Keys]] = {}
        self._masks: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()

    def read(self, staged: Staged) -> _Ready:
        staged.fetch()
        mask = self._mask(staged)
        job = Job(staged.photo, staged.output, mask)
        groups = by_model([job], self._model, task=self._task, files=self._files, sharp=self._sharp)
        restorer, keys = self._opened(next(iter(groups)))
        read = read_job(restorer, self._run(keys), job)
        assert read.key is not None
        return _Ready(restorer, job, read, read.key.input)

    def _opened(self, name: str) -> tuple[Restorer, Keys]:
        with self._lock:
            if name not in self._restorers:
                restorer = open_restorer(name, self._options, task=self._task, scale=self._files.scale)
                self._restorers[name] = restorer, Keys(name, {})
            return self._restorers[name]

    def _run(self, keys: Keys | None = None) -> FileRun:
        return FileRun(seed=self._seed, files=self._files, keys=keys)

    def _mask(self, staged: Staged) -> Path | None:
        """Fetch the photo's mask: one for all, or by name in a folder, whose tree may be the photos'."""
        place = self._place
        if place is None:
            return None
        found = place
        if place.is_folder():
            stem = Path(Place(staged.item.url).name).stem
            folders = dict.fromkeys((staged.item.place, ""))
            names = {folder: self._named(place.below(folder)).get(stem) for folder in folders}
            folder = next((folder for folder in folders if names[folder] is not None), None)
            if folder is None:
                raise PhotoError(
                    f"{staged.photo} has no mask of the same name in {place}; expected {stem}.png or "
                    f"{stem}_mask001.png"
                )
            found = place.below(folder).below(str(names[folder]))
        mask = staged.out.parent / f"mask{Path(found.name).suffix}"
        found.fetch(mask)
        return mask

    def _named(self, folder: Place) -> dict[str, str]:
        with self._lock:
            if folder.url not in self._masks:
                paths = [Path(one.name) for one in folder.listed()[1]]
                self._masks[folder.url] = {stem: path.name for stem, path in masks_by_name(paths).items()}
            return self._masks[folder.url]

    def work(self, staged: Staged, ready: _Ready) -> _Worked:
        del staged
        return _Worked(ready, work_on(ready.restorer, ready.job, self._run(), ready.read, None))

    def write(self, staged: Staged, worked: _Worked, turn: Callable[[], None]) -> Made:
        del staged
        ready = worked.ready
        _, notes = write_result(self._run(), ready.job, worked.worked, turn)
        name = ready.restorer.name
        digest = self._restorers[name][1].model
        # Weights that were fetched are known by their address.
        shown = name if self._model == self._given else str(Place(str(self._given)))
        return Made(shown, digest, ready.input, notes)
