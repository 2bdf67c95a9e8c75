"""Which part of FreqMAE matters, and which mask: the matrix of the three papers, one question a grid.

    jfreq data prepare synthetic:motion --out shards/motion --n 600 --seconds 2.56
    jfreq ablate experiments/ablations/sensors_masked.py:freqmae_shift --data shards/motion \\
        --workdir runs/ablate/shift --trainings 2

`freqmae_shift`: height of the attention windows, temporal shift, wrap mask. `freqmae_loss`: form and
exponent. `freqmae_fusion`: gamma and what the probe reads. `freqmae_released`: one departure of the
released code at a time. `sensor_masks`: which patches stay visible and how many. A grid is small enough for a CPU; any other set of several sensors does as well.
"""

from collections.abc import Mapping

from jfreq import recipes
from jfreq.ablate import Ablation, change
from jfreq.config import Experiment, replace
from jfreq.methods.freqmae import FreqMAE, as_released
from jfreq.methods.mae import MAE
from jfreq.methods.phymask import PhyMask
from jfreq.nn.swin import Swin

SHORT = {"steps": 150, "batch": 32, "optim__warmup": 15, "log__every": 50, "data__split": None}
SWIN = Swin(width=16, depths=(2,), heads=2, window=(2, 4), dropout=0.0, attention_dropout=0.0,
            drop_path=0.0)  # fmt: skip
BASE = replace(
    recipes.load("freqmae_hapt"), name="freqmae_ablation", method__encoder=SWIN,
    method__embedding=32, method__fusion=32, **SHORT,
)  # fmt: skip
assert isinstance(BASE.method, FreqMAE)
MASKED = replace(recipes.load("mae_hapt"), name="mae_ablation", **SHORT)

DECIDES = (
    "A tiny network, 150 updates, windows of one synthetic family: this shows that switches do what "
    "they say (rows that must coincide do) and large effects, not the ranking at the published "
    "scale (2,500 epochs)."
)


def height(frames: int):
    return change(method__encoder__window=(frames, 4))


def shift(frames: int):
    return change(method__encoder__shift=(frames, 0))


freqmae_shift = Ablation(
    name="freqmae_shift",
    question="What do the temporal shift and its wrap mask do at windows of 1, 2 and 3 frames?",
    base=BASE,
    factors={
        "height": {"2": height(2), "1": height(1), "3": height(3)},
        "shift": {"1": shift(1), "0": shift(0)},
        "wrap mask": {"on": change(), "off": change(method__encoder__wrap_mask=False)},
    },
    decides=DECIDES,
)


def one_exponent(levels: Mapping[str, str]) -> bool:
    """The plain error has no exponent."""
    return levels["loss"] != "mae" or levels["exponent"] == "0.3"


freqmae_loss = Ablation(
    name="freqmae_loss",
    question="Does the energy exponent do anything, as released and as meant?",
    base=BASE,
    factors={
        "loss": {"intended": change(), "as_released": change(method__error="as_released"),
                 "mae": change(method__error="mae")},
        "exponent": {"0.3": change(), "0": change(method__exponent=0.0),
                     "1": change(method__exponent=1.0)},
    },
    keep=one_exponent,
    decides=DECIDES,
)  # fmt: skip

freqmae_fusion = Ablation(
    name="freqmae_fusion",
    question="Is reconstructing a sensor from the others worth it, and which vectors should be read?",
    base=BASE,
    factors={
        "gamma": {"1": change(), "0": change(method__gamma=0.0)},
        "read": {"both": change(), "unimodal": change(method__embed="unimodal"),
                 "fused": change(method__embed="fused")},
    },
    decides=DECIDES,
)  # fmt: skip


AS_RELEASED = as_released(BASE.method)
RAW = replace(AS_RELEASED.frontend, remove_mean=False)

freqmae_released = Ablation(
    name="freqmae_released",
    question="Which departure of the released code costs what, each by itself?",
    base=BASE,
    factors={
        "as released": {
            "nothing": change(),
            "windows": change(method__encoder=AS_RELEASED.encoder),
            "loss": change(method__error="as_released"),
            "padding": change(method__padding="as_released"),
            "not standardised": change(method__standardise="none"),
            "magnitude and phase": change(method__frontend=RAW),
            "magnitude and phase, mean removed": change(method__frontend=AS_RELEASED.frontend),
            "everything": change(method=AS_RELEASED),
        },
    },
    decides=DECIDES,
)  # fmt: skip


def physics(**fields):
    """Masks by a prior on the same trunk."""

    def apply(experiment: Experiment) -> Experiment:
        trunk = experiment.method
        assert isinstance(trunk, MAE)
        method = PhyMask(trunk=trunk, anneal_steps=75, **fields)
        return replace(experiment, method=method)

    return apply


def ratio(value: float):
    return change(method__mask_ratio=value)


sensor_masks = Ablation(
    name="sensor_masks",
    question="Which patches should stay visible: any, whole frames, whole bands, loud or coherent "
    "ones; and how many?",
    base=MASKED,
    factors={
        "ratio": {".75": ratio(0.75), ".9": ratio(0.9), ".96": ratio(0.96)},
        "mask": {
            "random": change(),
            "time": change(method__mask_kind="time"),
            "frequency": change(method__mask_kind="frequency"),
            "energy": physics(alpha=1.0),
            "coherence": physics(alpha=0.0),
            "both": physics(),
            "both, opposite": physics(high_scores="masked"),
        },
    },
    keep=lambda levels: levels["mask"] not in ("time", "frequency") or levels["ratio"] == ".75",
    decides=DECIDES,
)
