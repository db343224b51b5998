"""What a card says beside its numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """The hand-written parts of one card."""

    summary: str
    training: str
    limits: str
    data: str = ""
    """What else was trained on."""
    oracle: str = ""
    """How to read the distance to stage 1."""
    teacher: str = (
        "Its stage-1 network lies beside it under the name `…-stage1`: it sees the clean photo, is the teacher "
        "for fine-tuning and not a model to use."
    )


DATA_SECTION = """## Data
302 photos, degraded on the fly; no benchmark photo, nothing else unless said below. Licences as their sources
state them:

| source | photos | licence |
|---|---|---|
| Cloudinary Image Dataset 2022 (imazen/codec-corpus) | 201 | CC BY-SA 4.0 |
| CLIC 2025 (imazen/codec-corpus) | 30 | Unsplash License |
| Budgie desktop backgrounds | 28 | CC0 1.0; for 10 of them required by the contribution rules but not confirmed |
| elementary OS wallpapers | 26 | CC0 or public domain 16, Unsplash 4, Pexels 2, Pixabay 2, CC BY-SA 4.0 2 |
| gb82 image set (gianni-rosato) | 17 | CC0 1.0 |

Every file with its source and licence: [photos.tsv](../../../docs/models/photos.tsv). Validation: 24 other photos of
the same sources."""

LICENCE_SECTION = """## Licence
The weights are Apache-2.0. They hold no photo; the photos keep their own licences."""

_TRAINED = (
    "Recipes `{0}-stage1` and `{0}-stage2`, Adam with cosine decay, bf16 mixed precision, on CPU cores alone."
)

CARDS = {
    "sr-x4-compact": Text(
        summary="Super-resolution ×4 of clean photos (bicubic reductions).",
        training=_TRAINED.format("sr-x4-compact") + " Batch 8, LQ patches 48×48.",
        oracle="Stage 1 can be below stage 2, which goes on training the DIRformer for more steps than stage 1.",
        limits="""- Made for clean photos. Noise and JPEG blocks are enlarged with the rest, sharper.
- Trained for hours on two cores, where published networks of its size train for days on GPUs: it removes jagged
  edges and ringing well and invents no texture, so fine patterns stay soft.
- Trained on 48×48 patches; on whole photos the attention statistics come from more pixels than it has seen.""",
    ),
}
