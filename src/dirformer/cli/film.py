"""`restore` of films: the same options, closing line and exit codes as of photos."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dirformer.cli.batch import Request, closing_line, flicker_line, terminable
from dirformer.cli.terminal import complain, progress_bar, say
from dirformer.ground.errors import ConfigError, DirformerError, MissingExtraError, OutputError, PhotoError
from dirformer.ground.formats import kind_of_name
from dirformer.ground.mirror import Mirror
from dirformer.ground.places import Place, is_url
from dirformer.inference.choice import influences
from dirformer.inference.done import digest_file, digest_of, digest_options
from dirformer.inference.jobs import PIPE
from dirformer.inference.sizes import target_size
from dirformer.video.names import WRITTEN, container_of, is_film
from dirformer.weights.catalog import default_model, find_weights, sharp_of

if TYPE_CHECKING:
    from dirformer.video.film import FilmReport


def are_films(names: list[str]) -> bool:
    """Return whether what is given are films. Raises ConfigError if only some are."""
    films = [name for name in names if is_film(Path(Place.of(name).name)) and not name.startswith("@")]
    if films and len(films) < len(names):
        raise ConfigError("films and photos are given together; expected one kind: run twice")
    return bool(films)


def run_films(request: Request, names: list[str], out: str) -> None:
    """Restore films.

    Raises:
        DirformerError: if nothing can be done.
        typer.Exit: with 2 if a film failed.
        KeyboardInterrupt: by Ctrl-C or SIGTERM; what is restored of a film waits beside its result.
    """
    request.check()
    for name, value in (
        ("--mask", request.mask),
        ("--prior", request.prior),
        ("--save-prior", request.save_prior),
        ("--prove", request.prove_it),
        ("--in-place", request.in_place),
        ("--extend", request.extend),
        ("--pages", request.pages),
    ):
        if value:
            raise ConfigError(f"{name} is for photos; leave it out for films")
    try:
        import av  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("av", "video") from None
    how = {"shot_prior": request.shot_prior, "steady": request.steady}
    done = failed = 0
    with terminable():
        try:
            for name in names:
                try:
                    _one(request, name, _output(name, out, several=len(names) > 1), how)
                    done += 1
                except DirformerError as error:
                    failed += 1
                    complain(str(error))
        finally:
            say(closing_line(done, 0, failed, Counter()))
    if failed:
        raise typer.Exit(2)


def _output(name: str, out: str, *, several: bool) -> str:
    """Return where a film's result goes: the file that is named, or the film's name in a folder."""
    place = Place.of(out)
    if out == str(PIPE):
        raise ConfigError("- is for photos, and a film cannot be written to a pipe; give a file: -o out.mp4")
    if kind_of_name(Path(place.name)) != "other" and not place.is_folder():
        raise ConfigError(f"{place} has the name of a picture; expected a film or a folder: -o out.mp4")
    if Path(place.name).suffix.lower() in WRITTEN and not several:
        return out
    if is_film(Path(place.name)) and not place.is_folder():
        container_of(Path(place.name))
        raise ConfigError(f"several films cannot go into the one file {place}; give a folder: -o DIR")
    film = Path(Place.of(name).name)
    named = film.name if film.suffix.lower() in WRITTEN else f"{film.stem}.mkv"
    return place.below(named).url if is_url(out) else str(Path(out) / named)


def _one(request: Request, name: str, out: str, how: dict[str, bool]) -> None:
    """Restore a film; one at an address is fetched first, and its result put there at the end."""
    if not is_url(name) and not Path(name).is_file():
        raise PhotoError(f"{name} is not there; give a film that exists")
    Place.of(out).require_writable()
    if Place.of(out).info() is not None and not request.overwrite:
        raise OutputError(f"{Place.of(out) if is_url(out) else out} exists already; add --overwrite")
    if not is_url(out) and Path(out).absolute() == Path(name).absolute():
        raise OutputError(f"{name} would be replaced by its result; give another name")
    with tempfile.TemporaryDirectory(prefix="dirformer-") as room:
        film, result = Path(name), Path(out)
        if is_url(name):
            film = Path(room) / Place(name).name
            Place(name).fetch(film)
        if is_url(out):
            result = Path(room) / "out" / Place(out).name
        try:
            segments = _segments(out, result)
            report = _restored(request, film, result, how, segments)
        except DirformerError as error:
            error.args = (str(error).replace(f"{room}/out/", "").replace(f"{room}/", ""),)
            raise
        if is_url(out):
            Place(out).put(result)
            segments.put()  # none is left: the film is whole
    kept = f", {report.kept} of them restored before" if report.kept else ""
    shown = [Place(one) if is_url(one) else one for one in (name, out)]
    say(f"{shown[0]} → {shown[1]}: {report.frames} frames{kept}")
    say(f"  {flicker_line(report.shots, report.flicker)}")
    for note in report.notes:
        say(f"  {note}")


def _segments(out: str, result: Path) -> Mirror:
    """Return the folder of a result's segments, kept beside the result also where that is an address."""
    from dirformer.video.film import segments_folder

    folder = segments_folder(result)
    return Mirror(folder, Place(out).beside(folder.name) if is_url(out) else None)


def _restored(request: Request, film: Path, out: Path, how: dict[str, bool], segments: Mirror) -> FilmReport:
    from dirformer.video.film import FilmRun, frame_count, made_under, restore_film

    files, options = request.file_options(), request.restore_options(noise="seed")
    total, (width, height) = frame_count(film)
    factor = files.factor(width, height)
    model = request.model
    if model is None:
        side = max(width, height)
        entry = default_model(request.task, has_mask=False, scale=factor, long_side=side, sharp=request.sharp)
        model = entry.name
    elif request.sharp:
        model = sharp_of(model).name

    from dirformer.inference.restorer import open_restorer

    restorer = open_restorer(model, options, task=request.task, scale=files.scale)
    size = None
    if factor is not None:
        wide, high = target_size(factor, width, height)
        size = (wide + wide % 2, high + high % 2)  # colours of films are mostly stored at half the size
        size = None if size == (width * restorer.scale, height * restorer.scale) else size
    key: dict[str, Any] = {
        "film": digest_of(digest_file(film).encode()),
        "model": digest_file(find_weights(model)),
        "options": digest_options(influences(options, files, seed=request.seed)),
        **how,
    }
    segments.fetch("*")
    if segments.place is not None and not made_under(segments.folder, key):
        shutil.rmtree(segments.folder, ignore_errors=True)
        segments.put()  # no segment of another film or model may lie there under this one's key
    say(f"{model}: {restorer.description}")
    with progress_bar(total, "restoring frames") as show:
        run = FilmRun(request.seed, size=size, key=key, **how)
        return restore_film(restorer, film, out, run, progress=show, saved=segments.put)
