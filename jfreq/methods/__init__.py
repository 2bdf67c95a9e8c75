"""One file per paper, one class in each. This is the whole list."""

from __future__ import annotations

import inspect
import json
from typing import Any

from jfreq import config, config_json
from jfreq.config import Experiment
from jfreq.method import Method
from jfreq.methods.aasp import AaSP
from jfreq.methods.ast import AST
from jfreq.methods.audiomae import AudioMAE
from jfreq.methods.beats import BEATs, BEATsTokenizer
from jfreq.methods.common.patches import PatchMethod
from jfreq.methods.common.raw_sensors import RawSensorMethod
from jfreq.methods.data2vec import Data2Vec
from jfreq.methods.eat import EAT
from jfreq.methods.focal import FOCAL
from jfreq.methods.freqmae import FreqMAE
from jfreq.methods.ltfc import LTFC
from jfreq.methods.mae import MAE
from jfreq.methods.phymask import PhyMask
from jfreq.methods.ssast import SSAST
from jfreq.methods.stf_csl import STFCSL
from jfreq.methods.stfnet import STFNet
from jfreq.methods.supervised import Classify
from jfreq.types import DataSpec, InputError

PAPERS: tuple[type[Method], ...] = (
    AST,
    AaSP,
    AudioMAE,
    BEATs,
    BEATsTokenizer,
    Classify,
    Data2Vec,
    EAT,
    FOCAL,
    FreqMAE,
    LTFC,
    MAE,
    PhyMask,
    SSAST,
    STFCSL,
    STFNet,
)
ENCODERS: tuple[type[Method], ...] = (PatchMethod, RawSensorMethod)
"""What is left of AST and STFNet without their classifiers; not trained by themselves."""
METHODS: dict[str, type[Method]] = {cls.__name__: cls for cls in (*PAPERS, *ENCODERS)}


def bind(experiment: Experiment, spec: DataSpec) -> Experiment:
    """The experiment with every open field of its method decided by the data."""
    return config.replace(experiment, method=experiment.method.bind(spec))


def experiment_from_dict(value: Any, where: str = "", advice: str = "") -> Experiment:
    """Strict inverse of :func:`jfreq.config_json.to_dict`; ``InputError`` names the wrong field,
    the file ``where`` it stands. It ends in ``advice`` where this version has no such field, class
    or choice."""
    try:
        return config_json.from_dict(Experiment, value, {Method: METHODS})
    except InputError as error:
        end = advice if isinstance(error, config_json.OtherSettings) else ""
        raise InputError((f"{where}: {error}" if where else str(error)) + end) from None


def check_experiment(experiment: Experiment) -> None:
    """Raises ``InputError`` for an experiment that could not be trained, saved and read back: a
    mistake in the code of a paper, which is reported before anything is opened or computed."""
    method = type(experiment.method)
    for name in ("init", "loss", "encode"):
        missing = getattr(method, name) is getattr(Method, name)
        config.check(not missing, method.__name__, f"has no method {name}; define it in the class")
        wanted = list(inspect.signature(getattr(Method, name)).parameters)
        try:
            inspect.signature(getattr(method, name)).bind(*wanted)
        except TypeError:
            raise InputError(f"{method.__name__}.{name}: must take ({', '.join(wanted)})") from None
    config_json.check_plain(experiment)
    saved = config_json.to_dict(experiment)
    read = config_json.to_dict(experiment_from_dict(json.loads(json.dumps(saved))))
    for field, (before, after) in config_json.changes(saved, read).items():
        raise InputError(
            f"{field}: {before!r} would be read back from a run as {after!r}; take a value that "
            "JSON keeps"
        )
