"""Which experiment fine-tunes an encoder: the default one, or that of a recipe."""

from __future__ import annotations

from pathlib import Path

from jfreq import recipes
from jfreq.buckets import url_of
from jfreq.config import Checkpoint, Experiment, Log, Optim, Source, check, replace
from jfreq.export.bundle import load_trained, trained_folder
from jfreq.files import local_path
from jfreq.methods.supervised import Classify, Head
from jfreq.ranges import shown
from jfreq.types import InputError


def experiment_for(source: str | Path, recipe: str | None = None) -> Experiment:
    """The fine-tuning experiment of an encoder, not yet bound to data.

    Without a recipe it is a short training of our own, for sets of some hundred clips: AdamW, 400
    steps of 16 clips, 50 of them warm-up, and for transformers over spectrograms SpecAugment and a
    rate of 5e-4 that falls by a quarter from block to block towards the input. Patches overlap
    when ``--method.backbone.stride`` is set, and positions are then resized. Encoders of sensors
    are trained at one rate. A supervised experiment that is trained from scratch keeps its own
    settings.

    Args:
      source: a run or a bundle, or the name of an experiment, which is then trained from scratch.
      recipe: a function that changes this experiment, as ``finetune_esc50`` or ``FILE.py:NAME``
        (:func:`jfreq.recipes.load_finetuning`).

    Raises:
      InputError: for anything else, and where the recipe is not made for this encoder.
    """
    if url_of(source) or local_path(source, "run").exists():
        folder = url_of(source) or trained_folder(source)
        pretrained, init_from = load_trained(folder).experiment, (Source(str(folder)),)
    else:
        try:
            pretrained, init_from = recipes.load(str(source)), ()
        except InputError as error:
            raise InputError(f"{source}: no such run or bundle, and {error}") from None
    if not init_from and pretrained.method.supervised and recipe is None:
        return replace(pretrained, data=replace(pretrained.data, split=None, exclude_folds=()))
    tuning = _default(pretrained) if recipe is None else tuned_by(recipe, pretrained)
    return replace(tuning, checkpoint__init_from=init_from)


def _default(pretrained: Experiment) -> Experiment:
    """What an encoder is fine-tuned with where no recipe is named."""
    backbone = pretrained.method.unbind().without_head
    plain = Experiment(
        name=f"{pretrained.name}_finetune",
        method=Classify(backbone=backbone, head=Head()),
        optim=Optim(warmup=50, weight_decay=0.01, clip=1.0),
        checkpoint=Checkpoint(every=200),
        log=Log(every=20),
    )
    return replace(plain, **backbone.finetune_defaults(pretrained))


def tuned_by(recipe: str, pretrained: Experiment) -> Experiment:
    """The fine-tuning experiment that a recipe makes of the default one.

    Args:
      recipe: its name, or ``FILE.py:NAME``.
      pretrained: what trained the encoder.

    Raises:
      InputError: for an unknown recipe, and one that is not made for this encoder.
    """
    default = _default(pretrained)
    found = recipes.load_finetuning(recipe)(default)
    check(
        isinstance(found, Experiment),
        "recipe",
        f"{recipe} returns {shown(found)}; return the experiment, changed",
    )
    if found.name != default.name:
        return found
    return replace(found, name=f"{pretrained.name}_{recipe.rpartition(':')[2]}")
