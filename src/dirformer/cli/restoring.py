"""`restore`: photos in, restored photos out."""

from __future__ import annotations

import dirformer.cli.photo_options as of
from dirformer.cli.batch import Request, run
from dirformer.cli.options import Device, Overwrite, Precision, Seed
from dirformer.ground.formats import MAX_PIXELS


def restore(
    out: of.Result,
    inputs: of.Photos = None,
    list_files: of.ListFile = None,
    task: of.TaskName = None,
    model: of.Model = None,
    sharp: of.Sharp = False,
    mask: of.Mask = None,
    scale: of.Scale = None,
    size: of.Size = None,
    strength: of.Strength = 1.0,
    consistent: of.Consistent = False,
    samples: of.Samples = 1,
    prior: of.PriorFile = None,
    save_prior: of.SavePrior = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    max_memory: of.Memory = None,
    storage: of.Storage = "32bit",
    context: of.Context = "auto",
    window: of.Window = None,
    self_ensemble: of.Ensemble = False,
    prove_it: of.Prove = False,
    quality: of.Quality = None,
    file_format: of.Format = "same",
    pages: of.Pages = False,
    strip_metadata: of.Strip = False,
    max_pixels: of.MaxPixels = MAX_PIXELS,
    dilate: of.Dilate = 0,
    feather: of.Feather = 0,
    extend: of.Extend = None,
    workers: of.Workers = 2,
    skip_existing: of.Skip = None,
    overwrite: Overwrite = False,
    in_place: of.InPlace = False,
) -> None:
    """Restore photos: enlarge, deblur, clean or fill them."""
    run(Request(**locals()))
