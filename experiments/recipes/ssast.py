"""SSAST (Gong, Lai, Chung, Glass, AAAI 2022): masked spectrogram patches, InfoNCE + 10 MSE.

    jfreq train ssast_tiny --data shards/esc10 --workdir runs/ssast_tiny

`ssast_nano|tiny|small|base` and `ssast_frame_*` follow the paper with an exact softmax over
targets, uniform clusters and a cosine schedule; they take the length of any prepared audio set
(`nano`: any sensor set too). `ssast_audioset_*` follow the released code, where it departs
from the paper included (docs/released.md has every number), for 10 s clips of AudioSet-2M +
LibriSpeech-960, and `ssast_frame_audioset_*` are its frame models (masked at random):

    jfreq train ssast_audioset_base --data shards/audioset shards/librispeech --workdir runs/base

Time: the paper needed about 10 days for base (800 k steps of batch 24) on four 12 GB GPUs. One
step of `ssast_nano` (batch 32, 5 s clips) takes about half a second on two CPU cores.
Published (base, 400 masked, joint; fine-tuned): AudioSet-20K 31.0 mAP, ESC-50 88.8, Speech
Commands V2 98.0, V1 96.0, VoxCeleb1 64.3, IEMOCAP 59.6 % accuracy; frame model 29.2, 85.9, 98.1,
96.7, 80.8, 60.5. As released, the learning rate of ``ssast_audioset_*`` halves when the pretext
accuracy on AudioSet's evaluation clips stands still for three validations, one every 96,000 clips.
"""

from jfreq.config import Checkpoint, Experiment, Log, Optim, Validation, replace
from jfreq.frontends.fbank import Fbank
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import SIZES

ADAM = Optim(kind="adam_l2", b1=0.95, b2=0.999, weight_decay=5e-7, decay=(".*",), warmup=1000)

ssast_nano = Experiment(
    name="ssast_nano",
    method=SSAST(patch=None, encoder=replace(SIZES["nano"], unroll=True)),
    optim=Optim(lr=1e-3, warmup=50, weight_decay=0.01, b2=0.98, clip=1.0),
    steps=500,
    batch=16,
    checkpoint=Checkpoint(every=100),
    log=Log(every=10),
)


def _sized(size: str, *, lr: float, batch: int) -> Experiment:
    return Experiment(
        name=f"ssast_{size}",
        method=SSAST(frontend=Fbank(), encoder=SIZES[size]),
        optim=replace(ADAM, lr=lr, schedule="cosine", final_lr=0.01),
        steps=100_000,
        batch=batch,
        checkpoint=Checkpoint(every=2000),
        log=Log(every=50),
    )


def _frame(patch_model: Experiment) -> Experiment:
    """Tokens of 2 frames x 128 bins, masked at random."""
    name = patch_model.name.replace("ssast_", "ssast_frame_")
    return replace(patch_model, name=name, method__patch=(2, 128), method__mask_kind="random")


def _released(patch_model: Experiment, *, batch: int, steps: int) -> Experiment:
    """The released recipe for clips of 10 s: transposed softmax, biased clusters, 400 of 512, the
    rate halved by the accuracy on clips that are not trained on."""
    return replace(
        patch_model,
        name=patch_model.name.replace("ssast_", "ssast_audioset_"),
        method__frames=1024,
        method__mask=400,
        method__cluster_mode="official",
        method__info_nce="official",
        method__padding="attended",
        method__initial="released",
        optim__schedule="plateau",
        optim__plateau_figure="val/accuracy",
        validation=Validation(every=96_000 // batch, split="eval"),
        batch=batch,
        steps=steps,
    )


ssast_tiny = _sized("tiny", lr=5e-4, batch=32)
ssast_small = _sized("small", lr=2e-4, batch=32)
ssast_base = _sized("base", lr=1e-4, batch=32)
ssast_frame_nano = replace(
    ssast_nano, name="ssast_frame_nano", method__frontend=Fbank(), method__patch=(2, 128),
    method__mask_kind="random",
)  # fmt: skip
ssast_frame_tiny = _frame(ssast_tiny)
ssast_frame_small = _frame(ssast_small)
ssast_frame_base = _frame(ssast_base)
ssast_audioset_tiny = _released(ssast_tiny, batch=120, steps=160_000)
ssast_audioset_small = _released(ssast_small, batch=48, steps=400_000)
ssast_audioset_base = _released(ssast_base, batch=24, steps=800_000)
ssast_frame_audioset_tiny = _frame(ssast_audioset_tiny)
ssast_frame_audioset_small = _frame(ssast_audioset_small)
ssast_frame_audioset_base = _frame(ssast_audioset_base)

# Half an hour of sound on two CPU cores: short windows give more updates in the same time.
ssast_esc10 = replace(
    ssast_nano,
    name="ssast_esc10",
    method__passes=1,
    data__crop_seconds=1.295,
    optim__lr=2e-3,
    optim__warmup=100,
    steps=8000,
    batch=32,
    checkpoint__every=1000,
    log__every=50,
)
