"""Published fine-tuning of SSAST, AST, EAT and Audio-MAE, chosen by the encoder.

    jfreq finetune encoders/eat --recipe finetune_esc50 --data shards/esc50 --workdir runs/tuned

A recipe changes the experiment that `jfreq finetune` trains by default; options come on top of it. Its
settings are those of the released scripts, at the commits ssast a1a3eec, ast 31088be, EAT 06c1c34 and
AudioMAE bd60e29; docs/finetune.md has every one of them in a table, and lists what differs. Lengths are
those of the published sets in updates: rates fall at fractions of the run, so that `--steps` alone fits
a set of another size.

Published (base; mAP on AudioSet and its balanced 20k clips, accuracy on ESC-50 and Speech Commands V2):
SSAST -, 31.0, 88.8, 98.0; AST 45.9, 34.7, 95.6, 98.1; EAT (10 epochs) 48.6, 40.3, 96.0, 98.3; Audio-MAE
47.3, 37.0, 94.1, 98.3.
"""

import sys
from typing import Any, Literal

from jfreq.config import Average, Experiment, InputError, Optim, Validation, check, replace
from jfreq.frontends.fbank import AUDIOSET_MEAN, AUDIOSET_STD, Fbank
from jfreq.methods.audiomae import AudioMAE
from jfreq.methods.common.patches import PatchMethod
from jfreq.methods.eat import EAT
from jfreq.methods.ssast import SSAST
from jfreq.methods.supervised import Head
from jfreq.nn.vit import ViT

AUDIOSET = Fbank(mean=AUDIOSET_MEAN, std=AUDIOSET_STD)
ESC50 = Fbank(mean=-6.6268077, std=5.358466)
SPEECHCOMMANDS = Fbank(mean=-6.845978, std=5.5654526)
EAT_AUDIOSET, EAT_ESC50 = Fbank(mean=-4.268, std=4.569), Fbank(mean=-6.627, std=5.359)
EAT_SPEECHCOMMANDS = Fbank(mean=-6.846, std=5.565)
"""EAT rounds them."""


def finetune_audioset(tuning: Experiment) -> Experiment:
    """AudioSet-2M, about 1.95 M clips of 10 s; `--data` has the unbalanced and the balanced set.

    Scripts: ssast `finetune/audioset/run_as.sh` (`set=full`), ast `egs/audioset/run.sh` (`set=full`),
    EAT `finetuning_AS2M.sh`, AudioMAE `submit_ft_mask_bal.sh 2e-4 0.2 0.2` as its README calls it.
    """
    head = Head(loss="bce", mixup=0.5, spec_augment=(192, 48))
    match _family(tuning):
        case "SSAST":
            # 5 epochs of 162 757 updates; the first fall of the rate would be after 10.
            optim = replace(_adam(lr=1e-5), schedule="constant")
            tuned = _ssast(tuning, AUDIOSET, head, optim, batch=12, steps=813_785)
            return replace(tuned, data__sampling="balanced")
        case "AST":
            optim = replace(_adam(lr=1e-5, start=2 / 5, every=1 / 5, factor=0.5), warmup=1000)
            tuned = _ast(tuning, AUDIOSET, head, optim, batch=12, steps=813_785)
            return replace(tuned, data__sampling="balanced", average=Average(every=1 / 5))
        case "EAT":
            tuned = _eat(tuning, EAT_AUDIOSET, _eat_head(bce=True), batch=96, steps=300_000)
            return replace(tuned, data__sampling="balanced", data__epoch_rows=200_000)
        case "Audio-MAE":
            optim = _audiomae_optim(base_lr=2e-4, batch=256, warmup=10 / 100)
            head = replace(head, gain=True, token_drop=(0.2, 0.2))
            # 100 epochs of 781 updates, 200 000 clips each.
            tuned = _audiomae(tuning, AUDIOSET, head, optim, batch=256, steps=78_100)
            return replace(tuned, data__sampling="balanced")


def finetune_as20k(tuning: Experiment) -> Experiment:
    """AudioSet-20K, the balanced set: about 20.5 k clips of 10 s.

    Scripts: ssast `run_as.sh` and ast `run.sh` (`set=balanced`), EAT `finetuning_AS20K.sh`, AudioMAE
    `ft_as.sh 1e-3` as its README calls it.
    """
    head = Head(loss="bce", mixup=0.5, spec_augment=(192, 48))
    average = Average(every=1 / 25, start=6 / 25)
    falls = {"start": 10 / 25, "every": 5 / 25, "factor": 0.5}
    match _family(tuning):
        case "SSAST":
            # 25 epochs of 1733 updates; the script says warmup=True and passes False.
            tuned = _ssast(tuning, AUDIOSET, head, _adam(lr=5e-5, **falls), batch=12, steps=43_325)
            return replace(tuned, average=average)
        case "AST":
            optim = replace(_adam(lr=5e-5, **falls), warmup=1000)
            tuned = _ast(tuning, AUDIOSET, head, optim, batch=12, steps=43_325)
            return replace(tuned, average=average)
        case "EAT":
            return _eat(tuning, EAT_AUDIOSET, _eat_head(bce=True), batch=48, steps=40_000)
        case "Audio-MAE":
            optim = _audiomae_optim(base_lr=1e-3, batch=32, warmup=4 / 60)
            head = replace(head, gain=True, token_drop=(0.2, 0.2))
            # 60 epochs of 642 updates, 20 550 clips each.
            return _audiomae(tuning, AUDIOSET, head, optim, batch=32, steps=38_520)


def finetune_esc50(tuning: Experiment) -> Experiment:
    """ESC-50, 1600 clips of 5 s for each held-out fold.

    Scripts: ssast `finetune/esc50/run_esc_patch.sh` and `run_esc_frame.sh`, ast `egs/esc50/run_esc.sh`
    (from AudioSet), EAT `finetuning_ESC50.sh`; of AudioMAE the defaults of `main_finetune_esc.py`.
    """
    head = Head(loss="ce", spec_augment=(96, 24))
    match _family(tuning):
        case "SSAST":
            # 50 epochs of 33 updates.
            optim = _adam(lr=1e-4, start=6 / 50, every=1 / 50, factor=0.85)
            head = replace(head, noise=True)
            return _ssast(tuning, ESC50, head, optim, batch=48, steps=1650)
        case "AST":
            # 25 epochs of 34 updates.
            optim = _adam(lr=1e-5, start=5 / 25, every=1 / 25, factor=0.85)
            return _ast(tuning, ESC50, head, optim, batch=48, steps=850)
        case "EAT":
            head = replace(_eat_head(frames=512, ratio=0.4), label_smoothing=0.1, mixup=0.0)
            return _eat(tuning, EAT_ESC50, head, batch=48, steps=4000)
        case "Audio-MAE":
            # 50 epochs of 25 updates.
            optim = _audiomae_optim(base_lr=1e-3, batch=64, warmup=5 / 50, weight_decay=0.05)
            head = replace(head, label_smoothing=0.1)
            return _audiomae(tuning, ESC50, head, optim, batch=64, steps=1250)


def finetune_speechcommands(tuning: Experiment) -> Experiment:
    """Speech Commands V2, 35 words: 84 843 clips of 1 s to train on.

    Scripts: ssast `finetune/speechcommands_v2_35/run_sc.sh`, ast `egs/speechcommands/run_sc.sh`, EAT
    `finetuning_SPCv2.sh`. AudioMAE released none: its paper's table, on `main_finetune_as.py`.
    """
    head = Head(loss="bce", mixup=0.6, spec_augment=(48, 48), noise=True)
    optim = _adam(lr=2.5e-4, start=5 / 30, every=1 / 30, factor=0.85)
    match _family(tuning):
        case "SSAST":
            # 30 epochs of 662 updates.
            optim = replace(optim, warmup=1000)
            tuned = _ssast(tuning, SPEECHCOMMANDS, head, optim, batch=128, steps=19_860)
            return _best(tuned, every=662)
        case "AST":
            # 30 epochs of 663 updates.
            tuned = _ast(tuning, SPEECHCOMMANDS, head, optim, batch=128, steps=19_890)
            return _best(tuned, every=663)
        case "EAT":
            head = replace(_eat_head(bce=True, frames=128), noise=True)
            tuned = _eat(tuning, EAT_SPEECHCOMMANDS, head, lr=2e-4, batch=256, steps=40_000)
            return _best(tuned, every=332)
        case "Audio-MAE":
            # 60 epochs of 331 updates.
            optim = _audiomae_optim(base_lr=1e-3, batch=256, warmup=4 / 60)
            head = replace(head, mixup=0.5, gain=True)
            tuned = _audiomae(tuning, SPEECHCOMMANDS, head, optim, batch=256, steps=19_860)
            return _best(tuned, every=331)


# ------------------------------------------------------------------ families


def _family(tuning: Experiment) -> Literal["SSAST", "AST", "EAT", "Audio-MAE"]:
    """Whose settings suit the encoder, which is printed.

    What is left of an AST is a plain encoder of patches. An AST without a classifier, or the start of
    one, is imported as an SSAST without heads, and differs by its special tokens, which it pools.
    """
    family = _known_family(_encoder_of(tuning))
    print(f"jfreq: recipe: the published settings of {family}", file=sys.stderr, flush=True)
    return family


def _known_family(backbone: Any) -> Literal["SSAST", "AST", "EAT", "Audio-MAE"]:
    if isinstance(backbone, EAT):
        return "EAT"
    if isinstance(backbone, AudioMAE):
        return "Audio-MAE"
    plain = type(backbone) is PatchMethod
    if (plain or isinstance(backbone, SSAST)) and isinstance(backbone.encoder, ViT):
        return "AST" if plain or backbone.pool == "special" else "SSAST"
    raise InputError(
        "recipe: published fine-tuning is known for the transformers of SSAST, AST, EAT and "
        f"Audio-MAE, not for {type(backbone).__name__}; leave --recipe out, or give a function of "
        "your own as FILE.py:NAME"
    )


def _best(tuned: Experiment, *, every: int) -> Experiment:
    """The epoch of ``every`` updates that is best on the owners' validation rows is tested."""
    validation = Validation(every=every, split="validation")
    return replace(tuned, validation=validation, checkpoint__best="val/accuracy")


def _encoder_of(tuning: Experiment) -> Any:
    return getattr(tuning.method, "backbone", None)


def _set(
    tuning: Experiment,
    frontend: Fbank,
    head: Head,
    optim: Optim,
    *,
    batch: int,
    steps: int,
    **encoder: Any,
) -> Experiment:
    """What all recipes set. Only mean and standard deviation of a front end that is there change;
    ``encoder`` are fields of the encoder's method."""
    backbone = _encoder_of(tuning)
    known = backbone.frontend or frontend
    check(
        isinstance(known, Fbank),
        "recipe",
        f"reads Kaldi's log-mel, not {type(known).__name__}; pre-train with method.frontend Fbank",
    )
    known = replace(known, mean=frontend.mean, std=frontend.std)
    backbone = replace(backbone, frontend=known, padding="attended", **encoder)
    method = replace(tuning.method, backbone=backbone, head=head)
    return replace(tuning, method=method, optim=optim, batch=batch, steps=steps)


def _adam(*, lr: float, start: float = 0.4, every: float = 0.2, factor: float = 0.5) -> Optim:
    """The optimiser of SSAST and AST; the rate falls by ``factor`` from ``start`` of the run on."""
    return Optim(
        kind="adam_l2", b1=0.95, b2=0.999, weight_decay=5e-7, decay=(".*",), schedule="step", lr=lr,
        step_from=start, step_every=every, step_decay=factor,
    )  # fmt: skip


def _ssast(tuning: Experiment, frontend: Fbank, head: Head, optim: Optim, **run: Any) -> Experiment:
    """Patches overlap by 6, tokens of 2 frames by one; the clip vector is the mean of the patches."""
    patch = _encoder_of(tuning).patch or (16, 16)
    stride = {(16, 16): (10, 10), (2, 128): (1, 128)}.get(patch, patch)
    return _set(tuning, frontend, head, optim, patch=patch, stride=stride, pool="mean", **run)


def _ast(tuning: Experiment, frontend: Fbank, head: Head, optim: Optim, **run: Any) -> Experiment:
    patch = _encoder_of(tuning).patch or (16, 16)
    stride = (10, 10) if patch == (16, 16) else patch
    return _set(tuning, frontend, head, optim, patch=patch, stride=stride, pool="special", **run)


def _eat_head(*, bce: bool = False, frames: int = 1024, ratio: float = 0.2) -> Head:
    """``ratio``: the widest masked part of the frames and of the 128 bins."""
    return Head(
        loss="bce" if bce else "ce", mixup=0.9, mixup_of="spectrogram", mixup_alpha=0.8,
        mixup_shared=True, roll=True, gain=True, spec_augment_at="input",
        spec_augment=(int(frames * ratio) + 1, int(128 * ratio) + 1), eps=1e-6, initial=0.02,
    )  # fmt: skip


def _eat(
    tuning: Experiment, frontend: Fbank, head: Head, *, lr: float = 5e-5, **run: Any
) -> Experiment:
    optim = Optim(
        lr=lr, b1=0.9, b2=0.95, weight_decay=0.05, decay=(r".*/kernel", r".*/special_tokens"),
        warmup_fraction=0.1, final_lr=1e-6 / lr, layer_decay=0.65, layer_decay_of="blocks",
    )  # fmt: skip
    encoder = replace(_encoder_of(tuning).encoder, drop_path=0.1)
    return _set(tuning, frontend, head, optim, encoder=encoder, pool="special", **run)


def _audiomae_optim(
    *, base_lr: float, batch: int, warmup: float, weight_decay: float = 0.0005
) -> Optim:
    lr = base_lr * batch / 256
    return Optim(
        lr=lr, b1=0.9, b2=0.999, weight_decay=weight_decay, warmup_fraction=warmup,
        final_lr=1e-6 / lr, layer_decay=0.75,
    )  # fmt: skip


def _audiomae(
    tuning: Experiment, frontend: Fbank, head: Head, optim: Optim, **run: Any
) -> Experiment:
    """Without the norm after the encoder; positions stay as they are."""
    backbone = _encoder_of(tuning)
    encoder = replace(backbone.encoder, drop_path=0.1, final_norm=False)
    head = replace(head, eps=1e-6, initial=2e-5)
    if backbone.positions == "learned":
        optim = replace(optim, lr_mult=((r".*/positions/.*", 0.0),))
    return _set(tuning, frontend, head, optim, encoder=encoder, pool="mean", **run)
