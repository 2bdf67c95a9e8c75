"""One file per paper. This is the whole list: config class and builder, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jfreq import config
from jfreq.config import Experiment, MethodConfig
from jfreq.methods.aape import AaSP, aasp
from jfreq.methods.ast import AST, ast
from jfreq.methods.base import Method
from jfreq.methods.classify import Classify, classify
from jfreq.methods.eat import EAT, eat
from jfreq.methods.focal import FOCAL, focal
from jfreq.methods.freqmae import FreqMAE, freqmae
from jfreq.methods.ltfc import LTFC, ltfc
from jfreq.methods.mae import MAE, mae
from jfreq.methods.phymask import PhyMask, phymask
from jfreq.methods.ssast import SSAST, ssast
from jfreq.methods.stf_csl import STFCSL, stf_csl
from jfreq.methods.stfnet import STFNet, stfnet
from jfreq.types import DataSpec, InputError

METHODS: dict[str, tuple[type[MethodConfig], Callable[[Any], Method]]] = {
    "AST": (AST, ast),
    "AaSP": (AaSP, aasp),
    "Classify": (Classify, classify),
    "EAT": (EAT, eat),
    "FOCAL": (FOCAL, focal),
    "FreqMAE": (FreqMAE, freqmae),
    "LTFC": (LTFC, ltfc),
    "MAE": (MAE, mae),
    "PhyMask": (PhyMask, phymask),
    "SSAST": (SSAST, ssast),
    "STFCSL": (STFCSL, stf_csl),
    "STFNet": (STFNet, stfnet),
}


def build(cfg: MethodConfig) -> Method:
    """The pure functions of a bound config."""
    return METHODS[type(cfg).__name__][1](cfg)


def bind(experiment: Experiment, spec: DataSpec) -> Experiment:
    """The experiment with every open field of its method decided by the data."""
    return config.replace(experiment, method=experiment.method.bind(spec))


def experiment_from_dict(value: Any, where: str = "") -> Experiment:
    """Strict inverse of ``config.to_dict``; ``InputError`` names the field that is wrong, and the
    file ``where`` it stands."""
    variants = {MethodConfig: {name: cls for name, (cls, _) in METHODS.items()}}
    try:
        return config.from_dict(Experiment, value, variants)
    except InputError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from None
