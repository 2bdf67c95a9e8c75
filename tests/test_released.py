"""Published training: docs/released.md says what is in the recipes that claim to be as released.

``python -m tests.test_released`` writes the tables of the page anew.
"""

import re
from pathlib import Path

import pytest

from jfreq import recipes
from jfreq.config import Experiment
from jfreq.config_json import changes, to_dict
from jfreq.methods import EAT
from tests import published

PAGE = Path(__file__).parents[1] / "docs" / "released.md"
OPTIMISER = {
    "learning rate": "optim.lr",
    "optimiser": "optim.kind",
    "its betas": "optim.b1 optim.b2",
    "weight decay": "optim.weight_decay",
    "of": "optim.decay",
    "rates of their own": "optim.lr_mult",
    "warm-up, updates": "optim.warmup",
    "schedule": "optim.schedule",
    "ends at this part of the rate": "optim.final_lr",
    "falls by, from, every (parts of the run)": "optim.step_decay optim.step_from optim.step_every",
    "falls by, after more figures than, better by": (
        "optim.plateau_decay optim.plateau_patience optim.plateau_threshold"
    ),
    "figures of": "optim.plateau_figure",
    "clipped gradient": "optim.clip",
}
RUN = {
    "batch": "batch",
    "micro-batches of an update": "accumulate",
    "updates": "steps",
    "split trained on": "data.split",
    "rows drawn": "data.sampling",
    "weights averaged every, from": "average.every average.start",
    "measured every, on": "validation.every validation.split",
    "best kept by": "checkpoint.best",
}
TRANSFORMER = {
    "log-mel: rate, bins": "method.frontend.rate method.frontend.n_mels",
    "window, hop (ms)": (
        "method.frontend.window method.frontend.win_length_ms method.frontend.hop_length_ms"
    ),
    "lowest frequency (Hz)": "method.frontend.low_hz",
    "clip mean removed": "method.frontend.remove_clip_mean",
    "samples times, beyond the clip": "method.frontend.scale method.frontend.beyond",
    "mean, standard deviation": "method.frontend.mean method.frontend.std",
    "frames": "method.frames",
    "patch (time, frequency)": "method.patch",
    "stride": "method.stride",
    "order of tokens": "method.order",
    "special tokens": "method.special_tokens",
    "positions": "method.positions",
    "encoder: width, depth, heads, MLP": (
        "method.encoder.width method.encoder.depth method.encoder.heads method.encoder.mlp_ratio"
    ),
    "its norm: place, eps": "method.encoder.norm method.encoder.eps",
    "norm after the encoder": "method.encoder.final_norm",
    "dropout, of attention, drop path": (
        "method.encoder.dropout method.encoder.attention_dropout method.encoder.drop_path"
    ),
    "initial values": "method.initial",
    "padding, once trained": "method.padding",
    "clip vector, once trained": "method.pool",
    "precision": "method.encoder.dtype",
}
METHOD = {
    "SSAST": {
        "masked tokens": "method.mask",
        "mask": "method.mask_kind",
        "clusters: smallest, largest side, mode": "method.cluster method.cluster_mode",
        "objective": "method.objective",
        "InfoNCE": "method.info_nce",
        "weight of the squared error": "method.generative_weight",
        "masks and passes of a clip": "method.passes",
    },
    "AST": {
        "classes, several labels": "method.head.classes method.head.multi_label",
        "loss (auto: bce for several labels, else ce)": "method.head.loss",
        "label smoothing": "method.head.label_smoothing",
        "mixing: probability": "method.head.mixup",
        "mixing: what, Beta": "method.head.mixup_of method.head.mixup_alpha",
        "masked frames, bins, where": "method.head.spec_augment method.head.spec_augment_at",
        "noise and roll": "method.head.noise",
        "norm of the classifier, eps": "method.head.norm method.head.eps",
    },
    "EAT": {
        "clones": "method.clones",
        "masked": "method.mask_ratio",
        "blocks: side, adjusted by": "method.block method.adjust",
        "target: last blocks": "method.target_layers",
        "teacher keeps: from, to": "method.ema",
        "over updates": "method.ema_steps",
        "weights: frame, utterance": "method.frame_weight method.utterance_weight",
        "decoder: width, depth, kernel, groups": (
            "method.decoder.width method.decoder.depth method.decoder.kernel method.decoder.groups"
        ),
        "its noise, dropout": "method.decoder.noise method.decoder.dropout",
        "its precision": "method.decoder.dtype",
    },
    "Audio-MAE": {
        "masked": "method.mask_ratio",
        "whole columns, rows": "method.mask_axes",
        "targets standardised": "method.norm_patch",
        "gain": "method.gain",
        "decoder: width, depth, heads, MLP": (
            "method.decoder.width method.decoder.depth method.decoder.heads"
            " method.decoder.mlp_ratio"
        ),
        "its windows (time, frequency)": "method.decoder.window",
        "their shift": "method.decoder.shift",
        "its biases: width, dropout": "method.decoder.bias_width method.decoder.bias_dropout",
        "its eps": "method.decoder.eps",
        "its precision": "method.decoder.dtype",
    },
}
SPECTRA = {
    "sensors": "method.modalities",
    "standardised by": "method.standardise",
    "spectra: interval, hop (s)": "method.frontend.interval method.frontend.hop",
    "read as": "method.frontend.form",
    "two-sided, mean removed, scaled": (
        "method.frontend.two_sided method.frontend.remove_mean method.frontend.normalise"
    ),
    "taper": "method.frontend.taper",
    "patch: frames": "method.patch_frames",
    "patch: bins, of every sensor": "method.patch_bins",
    "Swin: width, heads, MLP": (
        "method.encoder.width method.encoder.heads method.encoder.mlp_ratio"
    ),
    "blocks of its stages": "method.encoder.depths",
    "windows (time, frequency)": "method.encoder.window",
    "shift": "method.encoder.shift",
    "mask where a shift wraps": "method.encoder.wrap_mask",
    "dropout, of attention, drop path": (
        "method.encoder.dropout method.encoder.attention_dropout method.encoder.drop_path"
    ),
    "vector of a sensor": "method.embedding",
}
SENSORS = {
    "FreqMAE": {
        "hidden units of the fusion": "method.fusion",
        "masked, by": "method.mask_ratio method.mask_kind",
        "loss": "method.error",
        "exponent of the energy (lambda)": "method.exponent",
        "bins weighed": "method.frequency_weight",
        "weight of the fused loss (gamma)": "method.gamma",
        "padding": "method.padding",
        "children of a merged patch": "method.children",
        "clip vector": "method.embed",
    },
    "FOCAL": {
        "projection": "method.projection",
        "windows of a sub-sequence": "method.sequence",
        "rows in runs of": "data.sequence",
        "weights: shared, private": "method.shared_weight method.private_weight",
        "weights: orthogonal, temporal": "method.orthogonality_weight method.temporal_weight",
        "temperature, margin": "method.temperature method.margin",
        "orthogonality": "method.orthogonality",
        "views in time": "method.views.time",
        "views in frequency": "method.views.frequency",
        "probability of a change": "method.views.prob",
        "jitter, scale": "method.views.jitter method.views.scale",
        "segments permuted": "method.views.segments",
        "warps: strength, knots": "method.views.warp method.views.knots",
    },
}
COLUMNS = {
    "SSAST": (
        "ssast_audioset_base", "ssast_audioset_small", "ssast_audioset_tiny",
        "ssast_frame_audioset_base", "ssast_frame_audioset_small", "ssast_frame_audioset_tiny",
    ),
    "AST": (
        "ast_audioset_base", "ast_audioset20k_base", "ast_esc50_base", "ast_speechcommands_base",
    ),
    "EAT": ("eat_audioset_base", "eat_audioset_large"),
    "Audio-MAE": ("audiomae_audioset_base",),
    "FreqMAE": ("freqmae_mod_released",),
    "FOCAL": ("focal_mod", "focal_acids"),
}  # fmt: skip
ELSEWHERE = ("name", "checkpoint.", "log.", "seed")
"""What decides nothing about the weights, but for the random numbers."""


def rows_of(paper):
    """Lines of its table, each with the fields that it shows."""
    if paper in METHOD:
        return OPTIMISER | RUN | TRANSFORMER | METHOD[paper]
    return OPTIMISER | RUN | SPECTRA | SENSORS[paper]


def pages(text):
    """The page with the tables of the code under its headings."""
    tables = {}
    for paper, names in COLUMNS.items():
        columns = {f"`{name}`": recipes.load(name) for name in names}
        tables[paper] = published.table(columns, rows_of(paper), empty=False)
    return published.page(text, tables)


def test_the_page_has_what_the_recipes_have():
    text = PAGE.read_text()
    assert pages(text) == text, "write it anew: python -m tests.test_released"
    assert set(re.findall(r"^## (\S+)$", text, re.MULTILINE)) == set(COLUMNS)


@pytest.mark.parametrize("paper", COLUMNS)
def test_nothing_that_a_recipe_sets_is_left_out(paper):
    """Every field that differs from the default, or between two columns, has a line."""
    shown = {field for fields in rows_of(paper).values() for field in fields.split()}
    first, *others = map(recipes.load, COLUMNS[paper])
    default = Experiment("", type(first.method)())
    for one, other in [(default, first), *((first, other) for other in others)]:
        found = {
            field
            for field, (_, value) in changes(to_dict(one), to_dict(other)).items()
            if value is not None and not field.endswith(".type") and not field.startswith(ELSEWHERE)
        }
        assert found <= shown, sorted(found - shown)


def test_every_recipe_of_a_published_set_has_a_column():
    shown = {name for names in COLUMNS.values() for name in names}
    claims = {n for n in recipes.known() if re.search(r"_audioset|_esc50|_speechc|_mod_rel", n)}
    assert claims <= shown, sorted(claims - shown)


def test_the_weight_of_the_utterance_counts_the_clones_of_a_device():
    """As released it is summed over the 12 clips of a device, whatever their clones."""
    for name in COLUMNS["EAT"]:
        method = recipes.load(name).method
        assert isinstance(method, EAT) and method.utterance_weight == 12 * method.clones


def test_rates_fall_and_snapshots_are_taken_between_epochs():
    epochs = {"audioset": 5, "audioset20k": 25, "esc50": 25, "speechcommands": 30}
    for name, count in epochs.items():
        found = recipes.load(f"ast_{name}_base")
        assert found.steps % count == 0
        for part in (found.optim.step_from, found.optim.step_every, found.average.every or 0):
            assert part * count == pytest.approx(round(part * count))


if __name__ == "__main__":
    PAGE.write_text(pages(PAGE.read_text()))
