"""The networks of DiffIR: pure tensors, no files, no randomness that is not handed in."""
