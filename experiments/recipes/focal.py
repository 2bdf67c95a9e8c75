"""FOCAL (Liu et al., NeurIPS 2023) on several synchronous sensors.

    jfreq data prepare hapt --source ../shared/data/hapt --out shards/hapt \\
        --seconds 2.56 --hop-seconds 1.28 --unlabelled
    jfreq train focal_hapt --data shards/hapt --workdir runs/focal
    jfreq probe runs/focal --data shards/hapt --folds test

`focal_hapt` reads acceleration and rotation of one phone, windows of 2.56 s at 50 Hz; `focal_nano` any
sensors that were recorded together; size, rate and length are ours. `focal_sense_hapt` has the other encoder of the paper. `focal_mod` and
`focal_acids` are the published settings as far as they are public: 6000 and 3000 epochs, written
as steps at about 40 and 90 batches an epoch. They differ from the released code in what
docs/focal.md and docs/released.md name.
"""

from jfreq.augment import Views
from jfreq.config import Checkpoint, Data, Experiment, Log, Optim, replace
from jfreq.frontends.sensor_stft import Spectrum
from jfreq.methods.focal import FOCAL
from jfreq.nn.deepsense_stft import DeepSenseSTFT
from jfreq.nn.swin import Swin

FROZEN = (("patch_embed/.*", 0.0),)
"""Patch embedding and its norm keep their random initial values, as released."""

focal_nano = Experiment(
    name="focal_nano",
    method=FOCAL(
        encoder=Swin(
            width=32, depths=(2, 2), window=(2, 4), shift=(1, 2),
            dropout=0.1, attention_dropout=0.0, drop_path=0.1,
        ),
        embedding=64,
        projection=(128, 128),
    ),
    data=Data(split="train", sequence=4),
    optim=Optim(lr=1e-3, warmup=40, weight_decay=0.05, lr_mult=FROZEN),
    steps=400,
    batch=64,
    checkpoint=Checkpoint(every=100, keep=4),
    log=Log(every=20),
)  # fmt: skip
focal_hapt = replace(
    focal_nano,
    name="focal_hapt",
    method__frontend=Spectrum(interval=0.64, hop=0.32, form="real_imag"),
    method__patch_bins=(2,),
)
focal_sense_hapt = replace(
    focal_hapt,
    name="focal_sense_hapt",
    method__encoder=DeepSenseSTFT(),
    method__temperature=0.5,
    optim__lr_mult=(),
)

# Two-sided spectra of 0.2 s, real and imaginary parts, without a norm of the transform.
focal_mod = Experiment(
    name="focal_mod",
    method=FOCAL(
        modalities=("seismic", "audio"),
        frontend=Spectrum(interval=0.2, form="real_imag", two_sided=True, normalise=False),
        patch_bins=(1, 40),
    ),
    data=Data(sequence=4),
    # As torch's AdamW: every parameter that is trained decays.
    optim=Optim(lr=1e-3, final_lr=1e-4, weight_decay=0.05, decay=(".*",), lr_mult=FROZEN),
    steps=240_000,
    batch=256,
    checkpoint=Checkpoint(every=5000),
    log=Log(every=100),
)
focal_acids = replace(
    focal_mod,
    name="focal_acids",
    method__frontend__interval=0.25,
    method__frontend__hop=0.125,
    method__patch_bins=(8,),
    method__encoder__window=(2, 4),
    method__encoder__shift=(1, 2),
    method__temperature=0.2,
    method__temporal_weight=10.0,
    method__views=Views(
        time=("permute", "negate", "warp_time", "flip", "jitter", "shuffle"), frequency=("shift",)
    ),
    optim__lr=1e-4,
    optim__final_lr=1e-3,
    steps=270_000,
)
