"""AST (Gong, Chung, Glass, Interspeech 2021): the spectrogram transformer, supervised.

    jfreq train ast_tiny --data shards/esc10 --workdir runs/ast_tiny --data.exclude-folds 1

`ast_nano|tiny|small|base` start from random weights and take any labelled set of clips. The named
recipes repeat the published ones (16 x 16 patches at stride 10, SpecAugment, mixup), number by number
in docs/released.md; `ast_speechcommands_base` takes the splits `train` and `validation`:

    jfreq train ast_audioset_base --data shards/audioset --workdir runs/ast
    jfreq train ast_audioset20k_base --data shards/audioset20k --workdir runs/ast20k
    jfreq train ast_speechcommands_base --data shards/speechcommands --workdir runs/kws

The paper starts them from ImageNet: from a DeiT, whose windows (1024 frames, ESC-50 512, Speech
Commands 128) the import is told, or from an AST of AudioSet:

    jfreq import deit_base_distilled_patch16_384.pth --out encoders/deit --frames 1024
    jfreq train ast_audioset_base --data shards/audioset --workdir runs/ast \
        --checkpoint.init-from encoders/deit

Time: the paper trains 5 epochs of AudioSet-2M (batch 12) on four 12 GB GPUs in about a week.
Published (ImageNet start): AudioSet 45.9 mAP (weight-averaged), AudioSet-20K 34.7, ESC-50 88.7
(95.6 from AudioSet), Speech Commands V2 98.1. From random weights: 36.6 and 14.8 mAP.
The weights after each epoch are averaged for AudioSet, those from the sixth on for AudioSet-20K.
"""

from jfreq.config import Average, Checkpoint, Experiment, Log, Optim, Validation, replace
from jfreq.frontends.fbank import Fbank
from jfreq.methods.ast import AST
from jfreq.methods.supervised import Head
from jfreq.nn.vit import SIZES

ADAM = Optim(kind="adam_l2", b1=0.95, b2=0.999, weight_decay=5e-7, decay=(".*",), schedule="step")

ast_nano = Experiment(
    name="ast_nano",
    method=AST(patch=None, stride=None, encoder=replace(SIZES["nano"], unroll=True)),
    optim=Optim(lr=5e-4, warmup=50, weight_decay=0.01, clip=1.0),
    steps=300,
    batch=16,
    checkpoint=Checkpoint(every=100),
    log=Log(every=10),
)


def _sized(size: str, *, lr: float, batch: int) -> Experiment:
    return Experiment(
        name=f"ast_{size}",
        method=AST(frontend=Fbank(), encoder=SIZES[size]),
        optim=replace(ADAM, lr=lr, warmup=1000),
        steps=50_000,
        batch=batch,
        checkpoint=Checkpoint(every=2000),
        log=Log(every=50),
    )


ast_tiny = _sized("tiny", lr=5e-4, batch=48)
ast_small = _sized("small", lr=2e-4, batch=24)
ast_base = _sized("base", lr=1e-4, batch=12)

# 5 epochs of 162 757 updates, rate halved each epoch from the third.
ast_audioset_base = replace(
    ast_base,
    name="ast_audioset_base",
    method__padding="attended",
    method__initial="released",
    method__frames=1024,
    method__head=Head(classes=527, multi_label=True, mixup=0.5, spec_augment=(192, 48)),
    optim__lr=1e-5,
    optim__step_from=0.4,
    optim__step_every=0.2,
    data__sampling="balanced",
    average=Average(every=1 / 5),
    steps=813_785,
)
# 25 epochs of the balanced set, 1733 updates each; rate halved after the tenth and every fifth.
ast_audioset20k_base = replace(
    ast_audioset_base,
    name="ast_audioset20k_base",
    optim__lr=5e-5,
    optim__step_from=10 / 25,
    optim__step_every=5 / 25,
    data__sampling="uniform",
    average=Average(every=1 / 25, start=6 / 25),
    steps=43_325,
)
# 25 epochs of 34 updates, rate x 0.85 each epoch from the sixth.
ast_esc50_base = replace(
    ast_base,
    name="ast_esc50_base",
    method__padding="attended",
    method__initial="released",
    batch=48,
    method__frames=512,
    method__head=Head(spec_augment=(96, 24)),
    method__frontend=Fbank(mean=-6.6268077, std=5.358466),
    optim__warmup=0,
    optim__step_decay=0.85,
    optim__step_from=0.2,
    optim__step_every=0.04,
    steps=850,
)
# 30 epochs of 663 updates; the epoch that is best on the owners' validation rows is kept.
ast_speechcommands_base = replace(
    ast_base,
    name="ast_speechcommands_base",
    method__padding="attended",
    method__initial="released",
    batch=128,
    method__frames=128,
    method__head=Head(loss="bce", mixup=0.6, spec_augment=(48, 48), noise=True),
    method__frontend=Fbank(mean=-6.845978, std=5.5654526),
    optim__lr=2.5e-4,
    optim__warmup=0,
    optim__step_decay=0.85,
    optim__step_from=5 / 30,
    optim__step_every=1 / 30,
    data__split="train",
    validation=Validation(every=663, split="validation"),
    checkpoint__best="val/accuracy",
    steps=19_890,
)
