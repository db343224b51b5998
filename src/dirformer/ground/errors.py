"""Every error this package raises on purpose.

DirformerError
├── ConfigError        a field of a model, a recipe or a call is wrong
├── CheckpointError    a weight file is missing, foreign, of another stage, or damaged
├── PhotoError         a photo cannot be read, or does not suit the request
├── OutputError        a result exists already or cannot be written
├── DataError          a data folder is empty, incomplete or mismatched
├── TrainingError      a run cannot go on
├── ExportError        a file for another program does not restore as ours does
└── MissingExtraError  an optional package is needed

A message is one line: what was received, what was expected, what to do next.
The command line prints it and exits with code 2.
"""


class DirformerError(Exception):
    """Base of the family: catch this to catch them all."""


class ConfigError(DirformerError):
    """A field of a model config, a recipe or a call has a wrong name, type or value."""


class CheckpointError(DirformerError):
    """A weight file is missing, foreign, of another stage or task, incomplete or not finite."""


class PhotoError(DirformerError):
    """A photo is missing, is not a photo, is damaged, or does not suit the model."""


class OutputError(DirformerError):
    """A result file exists already, or cannot be written."""


class DataError(DirformerError):
    """A data folder is missing, empty, or its pairs do not match."""


class TrainingError(DirformerError):
    """A training run cannot go on: a non-finite loss, or a checkpoint that does not fit."""


class ExportError(DirformerError):
    """A network in another program's format differs too much from ours."""


class MissingExtraError(DirformerError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'dirformer[{extra}]'")
