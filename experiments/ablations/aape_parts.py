"""Does a patch embedding that measures what patches fold help, in which form, and what else does?

    jfreq data prepare synthetic:harmonic_tones --out shards/tones --n 1800 --seconds 1.295
    jfreq ablate experiments/ablations/aape_parts.py:aape_tones --data shards/tones \\
        --workdir runs/ablate/tones

`aape_tones`: the plain embedding against the branch, with either phase or fusion and without a view of
what is masked; the classes of `synthetic:harmonic_tones` differ only in modulations of 12 to 32 Hz, which
patches of 160 ms fold. `aape_labels` asks it of a network that learns from labels. `aape_pair`: plain or
not, for sets of real sounds; `aape_long`: for longer. `aape_open` changes one answer at a time to what the
paper leaves open, `aape_objective` one part of the framework, `aape_size` number and length of the kernels;
`aape_stem` has every form of the branch. A training takes one to three minutes on one CPU core.
"""

import dataclasses
from collections.abc import Mapping

from jfreq import recipes
from jfreq.ablate import Ablation, change
from jfreq.config import replace
from jfreq.nn.aape import AaPE
from jfreq.nn.predictors import ConvDecoder, CrossPredictor

BASE = replace(
    recipes.load("aape_nano"), name="aape_ablation", steps=300, optim__warmup=30, log__every=50,
    method__clones=4, method__ema_steps=300, data__crop_seconds=1.295,
    method__decoder=CrossPredictor(width=48, depth=1, heads=2),
)  # fmt: skip
DECIDES = (
    "A 0.5 M-parameter encoder, 300 updates of 16 clips x 4 clones, 1.3 s windows: this shows whether "
    "the branch is of use to a small network that was trained for minutes, and large effects of its "
    "form. It says nothing about the published scale (86 M parameters, 10 s clips of AudioSet)."
)

PLAIN = change(method__embed="plain")
STEMS = {
    "plain": PLAIN,
    "even": change(),
    "hermitian": change(method__aape__phase="hermitian"),
    "hermitian, magnitude": change(method__aape__phase="hermitian", method__aape__magnitude=True),
    "even, masked": change(method__aape__context="masked"),
    "hermitian, masked": change(method__aape__phase="hermitian", method__aape__context="masked"),
    "even, local": change(method__aape__context="local", method__aape__taps=17),
    "even, fixed kernels": change(method__aape__adaptive=False),
    "even, residual": change(method__aape__fusion="residual"),
}

aape_labels = Ablation(
    name="aape_labels",
    question="With labels: is the branch of use where classes differ in fast modulations?",
    base=replace(recipes.load("ast_nano"), name="aape_labels", steps=400, log__every=50,
                 method__stride=None, method__embed="aape",
                 method__aape=AaPE(width=48, heads=3, out=48)),
    factors={"stem": {stem: STEMS[stem] for stem in ("plain", "even", "hermitian")}},
    decides="Trained from scratch for 400 updates of 16 clips. The score is a ridge probe of the clip "
    "vector on the fold left out.", probe="ridge",
)  # fmt: skip


def stems(name: str, question: str, *kept: str) -> Ablation:
    """Some of the forms; what one such grid has trained another takes over with ``--have``."""
    return Ablation(name=name, question=question, base=BASE, decides=DECIDES, probe="ridge",
                    factors={"stem": {stem: STEMS[stem] for stem in kept}})  # fmt: skip


aape_tones = stems(
    "aape_tones", "Where classes differ in fast modulations only: plain patches or the branch, with "
    "which phase or fusion, and does it need to see what is masked?",
    "plain", "even", "hermitian", "even, masked", "even, residual",
)  # fmt: skip
aape_pair = stems("aape_pair", "Plain patches or the branch?", "plain", "even")
aape_long = dataclasses.replace(
    aape_pair, name="aape_long", question="Plain patches or the branch, after three times as long?",
    base=replace(BASE, steps=900, optim__warmup=90, method__ema_steps=900),
    decides=DECIDES.replace("300 updates", "900 updates"),
)  # fmt: skip
aape_stem = stems(
    "aape_stem",
    "Is the branch worth it: which phase, what may it see, should kernels follow the input?", *STEMS,
)  # fmt: skip
aape_open = Ablation(
    name="aape_open",
    question="What the paper does not say, one answer changed at a time: do kernels follow the input, "
    "does it matter that masked patches leak, which phase, which fusion, what does contrast bring?",
    base=BASE, decides=DECIDES, probe="ridge",
    factors={"change": {
        "none": change(), "plain patches": PLAIN, "fixed kernels": STEMS["even, fixed kernels"],
        "masked context": STEMS["even, masked"], "hermitian": STEMS["hermitian"],
        "residual fusion": STEMS["even, residual"],
        "no contrast": change(method__contrast_weight=0.0),
    }},
)  # fmt: skip


def one_at_a_time(levels: Mapping[str, str]) -> bool:
    """The default and its neighbours."""
    default = {"predictor": "cross-attention", "contrast": ".1", "clip weight": "10"}
    return sum(levels[name] != value for name, value in default.items()) <= 1


aape_objective = Ablation(
    name="aape_objective",
    question="What do the predictor, the contrast of masked views and the clip's term bring?",
    base=BASE,
    factors={
        "predictor": {
            "cross-attention": change(),
            "convolutions": change(method__decoder=ConvDecoder(width=96, depth=2)),
        },
        "contrast": {
            ".1": change(), "0": change(method__contrast_weight=0.0),
            "1": change(method__contrast_weight=1.0),
        },
        "clip weight": {
            "10": change(), "1": change(method__utterance_weight=1.0),
            "192": change(method__utterance_weight=192.0),
        },
    },
    keep=one_at_a_time, decides=DECIDES, probe="ridge",
)  # fmt: skip
aape_size = Ablation(
    name="aape_size",
    question="How many kernels for each sub-band, and how long?",
    base=BASE,
    factors={
        "kernels": {"16": change(), "4": change(method__aape__kernels=4),
                    "1": change(method__aape__kernels=1)},
        "taps": {"49": change(), "17": change(method__aape__taps=17),
                 "33": change(method__aape__taps=33), "97": change(method__aape__taps=97)},
    },
    keep=lambda levels: levels["kernels"] == "16" or levels["taps"] == "49",
    decides=DECIDES, probe="ridge",
)  # fmt: skip
