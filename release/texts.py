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
866 photos, degraded on the fly; no benchmark photo, nothing else unless said below. Licences as their sources
state them:

| source | photos | licence |
|---|---|---|
| OpenStax textbooks (openstax/osbooks-*) | 432 | each figure's own credit: CC BY 345, public domain or CC0 87 |
| Cloudinary Image Dataset 2022 (imazen/codec-corpus) | 201 | CC BY-SA 4.0 |
| getkirby/starterkit | 46 | Unsplash, stated per file |
| Ubuntu flavours' wallpapers (Cinnamon, Lomiri, MATE) | 32 | CC0 12, CC BY-SA 13, CC BY 7 |
| CLIC 2025 (imazen/codec-corpus) | 30 | Unsplash License |
| pimcore/demo | 30 | CC BY-SA 13, Pixabay 7, CC BY 4, public domain or CC0 5, Unsplash 1 |
| Budgie desktop backgrounds | 28 | CC0 1.0; for 10 of them required by the contribution rules but not confirmed |
| elementary OS wallpapers | 26 | CC0 or public domain 16, Unsplash 4, Pexels 2, Pixabay 2, CC BY-SA 4.0 2 |
| wagtail/bakerydemo | 24 | public domain, no authors named |
| gb82 image set (gianni-rosato) | 17 | CC0 1.0 |

Every file with its source, licence and author: [photos.tsv](../../../../docs/reports/models/photos.tsv). Earlier legs had the
302 photos without OpenStax, Kirby, Ubuntu, pimcore and wagtail. Validation: 24 other photos."""

LICENCE_SECTION = """## Licence
The weights are Apache-2.0. They hold no photo; the photos keep their own licences."""

_TRAINED = "Recipes `{0}-stage1` and `{0}-stage2`, Adam with cosine decay, {1}, on CPU cores."
_LAST_MUON = "bf16 mixed precision; the last leg Muon in float32"

CARDS = {
    "sr-x4-compact": Text(
        summary="Super-resolution ×4 of clean photos (bicubic reductions).",
        training=_TRAINED.format("sr-x4-compact", "bf16 mixed precision (the last leg in float32)")
        + " Batch 8, LQ patches 48×48.",
        oracle="Stage 1 can be below stage 2, which goes on training the DIRformer for more steps than stage 1.",
        limits="""- Made for clean photos. Noise and JPEG blocks are enlarged with the rest, sharper.
- Trained for hours on two cores, where published networks of its size train for days on GPUs: it removes jagged
  edges and ringing well and invents no texture, so fine patterns stay soft.
- Trained on 48×48 patches; on whole photos the attention statistics come from more pixels than it has seen.""",
    ),
    "realsr-x4-compact": Text(
        summary="Real-world super-resolution ×4: small photos that are blurred, noisy and compressed (L1).",
        data="Degraded by the second-order process of Real-ESRGAN (`dirformer degrade --kind realsr`), each photo "
        "with draws of its own.",
        training=_TRAINED.format("realsr-x4-compact", _LAST_MUON)
        + " Batch 8, LQ patches 48×48; stage 1 began with `sr-x4-compact-stage1`, and stage 2's DIRformer with stage 1's.",
        limits="""- Trained on simulated damage only; on photos that are damaged in another way it can do nothing useful.
- L1 makes it cautious: noise and blocks go, and fine texture with them. Faces, text and foliage come out smooth.
- On clean small photos `sr-x4-compact` is sharper.""",
    ),
    "realsr-x1-compact": Text(
        summary="Cleans photos at their own size: noise, compression, slight blur (L1).",
        data="Degraded by the second-order process of Real-ESRGAN at scale 1 (`dirformer degrade --kind realsr "
        "--scale 1`), each photo with draws of its own.",
        training=_TRAINED.format("realsr-x1-compact", _LAST_MUON)
        + " Patches 128×128, batch 8 and then 4; the DIRformer began with that of an early `deblurring-compact-stage1`.",
        limits="""- Trained on strong simulated damage: clean photos come out smoother than they were.
- L1 makes it cautious: noise and blocks go, and fine texture with them.""",
    ),
    "deblurring-compact": Text(
        summary="Removes motion blur of a shaken camera, photos at their own size.",
        data="Blurred along random camera paths with rotation and sensor noise, averaged in linear light or, in the last legs three "
        "times in ten, as stored (`dirformer degrade --kind motion-mixed`), and 103 pairs of real blur from the GoPro and "
        "REDS sets (terms not stated where they were found; research material). About one sample in four to six is a "
        "real pair, in the last legs one of GoPro's two scenes in every six of these. REDS's blurred frames are 3 to 8 grey levels brighter than its sharp ones, so scores are also "
        "given with the means matched.",
        training=_TRAINED.format("deblurring-compact", "bf16 mixed precision; the last legs Muon in float32")
        + " Batch 8, patches 64×64, at the end 96×96 and 128×128. For the last leg the network was deepened from 2.10 M parameters "
        "(`release/grow.py`), stage 1 with it, untrained since. Small patches because many steps are needed before anything "
        "is learned: at 128×128 it stood still for 2,600 steps. Stage 1 saw short ways (`motion-short`) on the fly "
        "beside blurs made beforehand; stage 2 blurs of all lengths, in the last legs all made anew.",
        limits="""- Trained for seven hours on one core: blur is reduced, not removed, and large blurs hardly.
- Attention is taken over windows of 128 pixels unless `--context image` is given: better on average where blur differs from
  place to place, as in video frames, not on every photo (docs/guides/streaming.md).
- The two GoPro scenes it was trained on may be from that set's test split: no GoPro benchmark score is claimed.
- Out-of-focus blur was not trained on.""",
    ),
    "inpainting-compact": Text(
        summary="Fills holes that a mask marks (white = hole): scratches, cables, text, small objects.",
        data="Holes are drawn: in stage 1 `scratches` and `thin`, in stage 2 also `thick` ones (LaMa's settings but for "
        "`scratches`), each as often, later `thin` twice as often as `thick`, at the end `thick` twice as often as `thin`.",
        training=_TRAINED.format("inpainting-compact", "bf16 mixed precision; later legs Muon, in float32")
        + " Batch 8, patches 64×64 in stage 1, 128×128 in stage 2, L1 on the holes, −PSNR of the holes later. Then the "
        "network was deepened from 2.10 M parameters (`release/grow.py`), stage 1 with it, untrained since; patches 64×64 "
        "(batch 8), then 128×128 (batch 4). The last leg ran on a GPU for eight minutes (bf16, batch 32 of 128×128 to 8 of 256×256, `thick` "
        "twice as often as `thin`). The network sees holes that are filled "
        "smoothly (`fill: smooth`) and adds to that; stage 1 began with the DIRformer of `realsr-x1-compact-stage1`.",
        limits="""- Much of what it gains over OpenCV's Telea in thick holes comes from the smooth filling it starts from: the row `smooth`.
- By ST-LPIPS, which asks how a photo looks, Telea is ahead: smooth fillings are nearer to the truth on average and look blurred.
- Trained with pixel losses: large holes are filled with a smooth guess, not with invented things.
- Outside the hole every pixel stays as it was.""",
    ),
}
