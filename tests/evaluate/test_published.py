"""Published fine-tuning: every recipe trains, and docs/finetune.md says what is in the code.

``python -m tests.evaluate.test_published`` writes the tables of the page anew.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import methods, recipes
from jfreq.config import Experiment, replace
from jfreq.evaluate.finetune_experiment import experiment_for, tuned_by
from jfreq.frontends.fbank import Fbank
from jfreq.methods import AST, EAT, MAE, SSAST, AudioMAE, Classify
from jfreq.nn.vit import SIZES, ViT
from jfreq.sharding import make_mesh
from jfreq.testing import CLIP, assert_step_specs, batch_spec, fake_batch
from jfreq.train.plan import plan_step
from jfreq.train.state import init_state
from jfreq.train.step import make_step
from jfreq.types import InputError
from tests import published

PAGE = Path(__file__).parents[2] / "docs" / "finetune.md"
TASKS = {
    "finetune_audioset": "AudioSet-2M",
    "finetune_as20k": "AudioSet-20K",
    "finetune_esc50": "ESC-50",
    "finetune_speechcommands": "Speech Commands V2",
}
ENCODERS = {
    "SSAST": SSAST(frontend=Fbank()),
    "AST": AST(frontend=Fbank()),
    "EAT": EAT(frontend=Fbank()),
    "Audio-MAE": AudioMAE(frontend=Fbank(), positions="learned"),
}
"""As ``jfreq import`` and ``jfreq train`` make them."""
ROWS = {
    "learning rate": "optim.lr",
    "optimiser": "optim.kind",
    "its betas": "optim.b1 optim.b2",
    "weight decay": "optim.weight_decay",
    "of": "optim.decay",
    "warm-up, updates": "optim.warmup",
    "warm-up, part of the run": "optim.warmup_fraction",
    "schedule": "optim.schedule",
    "ends at this part of the rate": "optim.final_lr",
    "falls by, from, every (parts of the run)": "optim.step_decay optim.step_from optim.step_every",
    "layer decay": "optim.layer_decay optim.layer_decay_of",
    "rates of their own": "optim.lr_mult",
    "clipped gradient": "optim.clip",
    "batch": "batch",
    "updates": "steps",
    "rows drawn": "data.sampling data.epoch_rows",
    "weights averaged every, from": "average.every average.start",
    "best kept: measured every, on, by": "validation.every validation.split checkpoint.best",
    "loss": "method.head.loss",
    "label smoothing": "method.head.label_smoothing",
    "mixing: probability": "method.head.mixup",
    "mixing: what, Beta, one draw a batch": (
        "method.head.mixup_of method.head.mixup_alpha method.head.mixup_shared"
    ),
    "rolled waveform, gain": "method.head.roll method.head.gain",
    "masked frames, bins": "method.head.spec_augment method.head.spec_augment_at",
    "noise": "method.head.noise",
    "dropped columns, rows of tokens": "method.head.token_drop",
    "drop path": "method.backbone.encoder.drop_path",
    "stride (time, frequency)": "method.backbone.stride",
    "clip vector": "method.backbone.pool",
    "norm after the encoder": "method.backbone.encoder.final_norm",
    "norm of the classifier: eps": "method.head.norm method.head.eps",
    "initial classifier": "method.head.initial",
    "padding": "method.backbone.padding",
    "mean, standard deviation": "method.backbone.frontend.mean method.backbone.frontend.std",
}
"""Lines of a table, each with the fields that it shows."""


def tuned(recipe, encoder) -> Any:
    """What a recipe makes of an encoder."""
    return tuned_by(recipe, Experiment("encoder", encoder))


def pages(text):
    """The page with the tables of the code under its headings."""
    tables = {
        f"{title}: `{recipe}`": published.table(
            {name: tuned(recipe, encoder) for name, encoder in ENCODERS.items()}, ROWS
        )
        for recipe, title in TASKS.items()
    }
    return published.page(text, tables)


def test_the_page_has_what_the_recipes_have():
    text = PAGE.read_text()
    assert pages(text) == text, "write it anew: python -m tests.evaluate.test_published"
    assert set(recipes.known_finetuning()) == set(TASKS)
    for recipe in TASKS:
        function = recipes.load_finetuning(recipe)
        for script in re.findall(r"`([\w/]+\.(?:sh|py))", function.__doc__ or ""):
            assert script.rpartition("/")[2] in text, script


# ------------------------------------------------------------------ training

TINY = ViT(width=48, depth=2, heads=2)
RICHEST = {
    "SSAST": "finetune_esc50",
    "AST": "finetune_speechcommands",
    "EAT": "finetune_speechcommands",
    "Audio-MAE": "finetune_as20k",
}


def tiny(name, recipe):
    """The recipe on an encoder of two narrow blocks."""
    encoder = ENCODERS[name]
    small = replace(TINY, norm=encoder.encoder.norm)
    changes = {"target_layers": 2} if isinstance(encoder, EAT) else {}
    return replace(tuned(recipe, replace(encoder, encoder=small, **changes)), batch=4, steps=10)


@pytest.mark.parametrize("name", ENCODERS)
def test_two_updates_of_every_family(name):
    """All that it switches on at once: loss, gradients and parameters stay finite."""
    experiment = tiny(name, RICHEST[name])
    spec = replace(CLIP, multi_label=RICHEST[name] == "finetune_as20k")
    experiment = methods.bind(experiment, spec)
    batch = fake_batch(spec, 4)
    setup = plan_step(experiment, batch_spec(spec, 4), make_mesh((1, 1, 1), jax.devices()[:1]))
    state = jax.jit(lambda key: init_state(setup.method, setup.optimiser, key))(jax.random.key(0))
    step = jax.jit(make_step(setup))
    before = state.params
    for _ in range(2):
        state, metrics = step(state, batch, jax.random.key(1))
        assert all(np.isfinite(total) for total, _ in metrics.values())
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, state.params)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.params))
    assert moved["head"]["linear"]["kernel"]
    trunk = moved["backbone"]["trunk"]
    assert trunk["patch_embed"]["kernel"] and trunk["encoder"]["blocks"]["qkv"]["kernel"]
    if name == "Audio-MAE":
        assert not any(jax.tree.leaves(trunk["positions"])), "its positions are fixed"


@pytest.mark.parametrize("recipe", TASKS)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_recipe_traces(name, recipe):
    experiment = tiny(name, recipe)
    assert_step_specs(experiment, replace(CLIP, multi_label="audio" in recipe or "20k" in recipe))


# ------------------------------------------------------------------ which encoder, which recipe


def test_frame_models_overlap_by_one_frame():
    found = tuned("finetune_speechcommands", replace(ENCODERS["SSAST"], patch=(2, 128)))
    assert found.method.backbone.stride == (1, 128)


def test_other_encoders_are_refused():
    for encoder in (MAE(), Classify(backbone=MAE())):
        with pytest.raises(InputError, match=r"known for the transformers of SSAST.* not for MAE"):
            tuned("finetune_esc50", encoder)
    with pytest.raises(InputError, match=r"recipe: reads Kaldi's log-mel, not LogSpectrogram"):
        tuned("finetune_esc50", replace(methods.SSAST(), frontend=log_spectrogram()))


def log_spectrogram():
    from jfreq.frontends.log_spectrogram import LogSpectrogram

    return LogSpectrogram(rate=16000.0, n_fft=400, hop_length=160)


def test_a_recipe_by_name(tmp_path):
    """Of jfreq's own, or of a file; the encoder of an AST comes without its classifier."""
    found: Any = experiment_for("ast_nano", "finetune_esc50")
    assert found.name == "ast_nano_finetune_esc50" and found.batch == 48
    assert type(found.method.backbone).__name__ == "PatchMethod"
    with pytest.raises(InputError, match=r"no 'finetune_esc' \(did you mean 'finetune_esc50"):
        experiment_for("ssast_nano", "finetune_esc")
    path = tmp_path / "mine.py"
    path.write_text(
        "from jfreq.config import replace\n"
        "def mine(tuning):\n    return replace(tuning, optim__lr=3e-5, method__head__roll=True)\n"
        "def nothing(tuning):\n    pass\n"
    )
    found = experiment_for("ssast_nano", f"{path}:mine")
    assert (found.name, found.optim.lr, found.method.head.roll) == ("ssast_nano_mine", 3e-5, True)
    assert found.steps == experiment_for("ssast_nano").steps
    with pytest.raises(InputError, match=r"mine.py:nothing returns None; return the experiment"):
        experiment_for("ssast_nano", f"{path}:nothing")
    with pytest.raises(InputError, match=r"no 'mime' \(did you mean 'mine'\?\); .*mine, nothing"):
        experiment_for("ssast_nano", f"{path}:mime")
    with pytest.raises(InputError, match=r"no such file; a recipe of your own"):
        experiment_for("ssast_nano", f"{tmp_path}/none.py:x")


def test_sizes_of_the_published_models():
    """The tables hold for any size; these are base."""
    assert all(x.encoder.width == SIZES["base"].width for x in ENCODERS.values())


if __name__ == "__main__":
    PAGE.write_text(pages(PAGE.read_text()))
