"""Which objective, mask and token shape should SSAST have when data and time are small?

    jfreq ablate experiments/ablations/ssast_objective.py:ssast_parts \\
        --data shards/esc10 --workdir runs/ablate/parts

`ssast_parts` changes one part of the default at a time; `ssast_objective` crosses all of them, at
three times the work. Masks that need two dimensions (clusters, frequency bands) exist for patches
only: a frame token spans all frequencies. The form of InfoNCE matters only where it is trained.
One training takes about a minute on two CPU cores.
"""

from collections.abc import Mapping

from jfreq import recipes
from jfreq.ablate import Ablation, change
from jfreq.config import replace

SMALL = replace(recipes.load("ssast_esc10"), name="ssast_ablation", steps=600, log__every=100)

OBJECTIVE = {
    "joint": change(),
    "discriminative": change(method__objective="discriminative"),
    "generative": change(method__objective="generative"),
}
FORM = {"paper": change(), "official": change(method__info_nce="official")}
MASK = {
    "cluster": change(),
    "official cluster": change(method__cluster_mode="official"),
    "random": change(method__mask_kind="random"),
    "time": change(method__mask_kind="time"),
    "frequency": change(method__mask_kind="frequency"),
}
TOKENS = {"patch": change(), "frame": change(method__patch=(2, 128))}


def possible(levels: Mapping[str, str]) -> bool:
    """Frames have no frequency axis to mask; without InfoNCE its form changes nothing."""
    flat = levels["mask"] in ("random", "time")
    return (levels["tokens"] == "patch" or flat) and (
        levels["objective"] != "generative" or levels["InfoNCE"] == "paper"
    )


def one_at_a_time(levels: Mapping[str, str]) -> bool:
    """The default and its neighbours; frames are compared with patches under both flat masks."""
    default = {"objective": "joint", "InfoNCE": "paper", "mask": "cluster", "tokens": "patch"}
    changed = {name for name, level in levels.items() if level != default[name]}
    return possible(levels) and (len(changed) <= 1 or changed == {"mask", "tokens"})


QUESTION = (
    "Which part of SSAST's pretext task matters for a linear probe after a short pre-training: "
    "classifying masked patches (InfoNCE, in the paper's or the released code's form), reconstructing "
    "them (MSE) or both; how the mask is sampled; patches or frames?"
)
DECIDES = (
    "A 0.5 M-parameter encoder, 600 updates, 128-frame windows, a few hundred to a few thousand "
    "clips: this ranks parts for small label-free pre-training on a CPU. It says nothing about the "
    "published scale (86 M parameters, 2 M clips, 800 k updates), where objectives that learn "
    "slowly have time to catch up. Three to six trainings for each cell resolve differences of "
    "several points only; what is not significant is not shown to be equal, and of fifteen "
    "comparisons about one is expected to be significant by chance."
)

FACTORS = {"objective": OBJECTIVE, "InfoNCE": FORM, "mask": MASK, "tokens": TOKENS}

ssast_objective = Ablation(
    name="ssast_objective", question=QUESTION, base=SMALL, factors=FACTORS, keep=possible,
    decides=DECIDES,
)  # fmt: skip
ssast_parts = Ablation(
    name="ssast_parts", question=QUESTION, base=SMALL, factors=FACTORS, keep=one_at_a_time,
    decides=DECIDES,
)  # fmt: skip
