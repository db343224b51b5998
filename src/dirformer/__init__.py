"""dirformer: image restoration with DiffIR."""

__version__ = "0.1.0"
