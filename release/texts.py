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
        "Its teacher lies beside it under the name `…-stage1`: stage 1's CPEN, which sees the clean photo. It is for "
        "fine-tuning and cannot restore."
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

_GRADED = (
    "Damage of every strength (`dirformer degrade --kind realsr-graded`): untouched photos, single light damages, "
    "combinations, and the second-order process of Real-ESRGAN, each photo with draws of its own."
)
_ON_A_GPU = (
    "Recipe of stage 2 with Muon at 1.2e-3 (cosine), −PSNR with a floor of 1e-3, {steps} steps of {batch}, bf16, "
    "from {start}: nine minutes of an H100 shared by three trainings."
)
_SHARP = (
    "From `{name}` (graded damage), {steps} steps of {patch} on a CPU core: L1 and 0.1 × ST-LPIPS, Muon at 4e-4, "
    "`even_phases=true`. No discriminator."
)
_SHARP_LIMITS = """- PSNR is lower than its sister's: edges are drawn where they are likely, not where they are known.
- Heavily damaged photos look painted.
- Trained for ST-LPIPS, by which it is also scored; look at the pictures too.
- Flat areas have no grid: the phases of its pixel shuffles are equal by construction."""

CARDS = {
    "sr-x4-compact": Text(
        summary="Super-resolution ×4 of clean photos (bicubic reductions).",
        training=_TRAINED.format("sr-x4-compact", "bf16 mixed precision")
        + " The last leg: Muon at 1.5e-3, 8,400 steps of 32 patches of 64×64 on an H100 shared by three trainings.",
        limits="""- Made for clean photos. Noise and JPEG blocks are enlarged with the rest, sharper.
- On clean small photos `realsr-x4-compact` is as good on average; this one is for benchmarks.
- It removes jagged edges and ringing well and invents no texture, so fine patterns stay soft.""",
    ),
    "realsr-x4-compact": Text(
        summary="Enlarges small photos ×4 and cleans them where they are damaged. This is the default for small photos.",
        data=_GRADED,
        training=_ON_A_GPU.format(
            steps="5,996", batch="32 patches of 48×48", start="the super-resolution weights of this package"
        ),
        limits="""- Trained on simulated damage only. Photos that are damaged in another way may not gain.
- −PSNR makes it cautious: where detail is lost it stays smooth. `--sharp` chooses a sister with crisper edges.
- Small text and faces in small photos are not invented.""",
    ),
    "realsr-x1-compact": Text(
        summary="Cleans photos at their own size and leaves clean ones as they are. This is the default for large photos.",
        data=_GRADED,
        training=_ON_A_GPU.format(
            steps="5,535", batch="32 patches of 128×128", start="an earlier leg on noise"
        )
        + " Then 300 steps on a CPU with 30 % JPEG pairs.",
        limits="""- Trained on simulated damage only. Photos that are damaged in another way may not gain.
- Heavily damaged photos come back smooth: noise and blocks go, and lost texture does not return.
- It removes noise and compression best. Blur of more than a pixel or two stays.""",
    ),
    "realsr-x4-compact-sharp": Text(
        summary="The sharp sister of `realsr-x4-compact` (`--sharp`): crisp edges, more contrast in texture.",
        data=_GRADED,
        training=_SHARP.format(name="realsr-x4-compact", steps=300, patch="5 patches of 40×40"),
        limits=_SHARP_LIMITS,
        teacher="Its teacher is that of `realsr-x4-compact`.",
    ),
    "realsr-x1-compact-sharp": Text(
        summary="The sharp sister of `realsr-x1-compact` (`--sharp`): crisp edges, more contrast in texture.",
        data=_GRADED,
        training=_SHARP.format(name="realsr-x1-compact", steps=260, patch="4 patches of 128×128"),
        limits=_SHARP_LIMITS,
        teacher="Its teacher is that of `realsr-x1-compact`.",
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
        "beside blurs made beforehand; stage 2 blurs of all lengths, in the last legs all made anew. From "
        "then on two samples in ten were untouched photos. The last leg ran on a GPU, 1,648 steps of 32 × 128×128 in 2.5 minutes, and "
        "what is shipped is 0.3 of the way from there to the weights behind 3,800 more steps on a core: a sharp photo comes back at 52.4 dB.",
        limits="""- Trained for nine hours on one core and minutes on a GPU: blur is reduced, not removed, and large blurs hardly.
- Attention is taken over windows of 192 pixels unless `--context image` is given: better on average where blur differs from
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
        "twice as often as `thin`), the next for nine minutes, shared (20 of 160×160, 866 photos), and 260 steps with 0.1 × ST-LPIPS "
        "followed on a CPU core. Until then the network saw holes that were filled smoothly, and added to that; in the last leg, 900 steps "
        "of 4 × 128×128 on a CPU core with −PSNR and 0.5 × ST-LPIPS, two fillings in three were from exemplars (`fill: exemplar`, "
        "`data.fills`). Stage 1 began with the DIRformer of `realsr-x1-compact-stage1` and saw smooth fillings alone.",
        limits="""- A hole is first filled with patches from elsewhere in the photo (the row `exemplar`), which the network mends near the rim.
  It was trained on ST-LPIPS, so look at the pictures too.
- `--fill smooth` is nearer to the truth in PSNR and worse to look at in large holes.
- Large holes are filled with a plausible texture at best, at times with a thing that is there twice. Nothing is invented.
- Outside the hole every pixel stays as it was.""",
    ),
}
