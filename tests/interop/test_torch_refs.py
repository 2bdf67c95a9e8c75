"""jfreq's first step beside the same method in PyTorch, written from the papers: the same loss, the
same gradient norm, the same clip vectors."""

import dataclasses
import sys
from typing import Any

import pytest

from jfreq.augment import Views
from jfreq.nn.aape import AaPE
from jfreq.nn.predictors import ConvDecoder, CrossPredictor
from jfreq.nn.stf import STF
from jfreq.nn.swin import Swin
from jfreq.nn.vit import ViT
from jfreq.nn.window_decoder import WindowDecoder
from jfreq.types import DataSpec, SignalSpec

torch = pytest.importorskip("torch")

SECOND = SignalSpec("audio", 16000.0, 20720)
"""128 frames."""
PRE, POST = ViT(width=24, depth=2, heads=2), ViT(width=24, depth=2, heads=2, norm="post")
SWIN: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0}
SENSORS = DataSpec((SignalSpec("mic", 400.0, 800), SignalSpec("acc", 100.0, 200, 3)))
SMALL: dict[str, dict[str, Any]] = {
    "ssast": {"method__encoder": PRE, "method__mask": 20},
    "ast": {"method__encoder": PRE},
    "audiomae": {
        "method__encoder": PRE,
        "method__decoder": WindowDecoder(
            width=24, depth=2, heads=2, bias_width=8, window=(4, 4), bias_dropout=0.0
        ),
    },
    "eat": {
        "method__encoder": POST, "method__clones": 3,
        "method__decoder": ConvDecoder(width=24, depth=2, groups=4),
    },
    "aape": {
        "method__encoder": POST, "method__clones": 3, "method__projection": (16, 8),
        "method__aape": AaPE(width=24, depth=1, heads=2, out=16, kernels=4, taps=9, high_pass=17),
        "method__decoder": CrossPredictor(width=24, depth=2, heads=2),
    },
    "mae": {"method__encoder": PRE, "method__decoder": ViT(width=12, depth=1, heads=2)},
    "freqmae": {
        "method__encoder": Swin(width=8, depths=(2, 1), heads=2, window=(2, 3), **SWIN),
        "method__embedding": 12, "method__fusion": 16, "method__patch_bins": (8, 2),
    },
    "focal": {
        "method__encoder": Swin(
            width=8, depths=(2, 1), heads=2, window=(3, 3), shift=(1, 1), **SWIN
        ),
        "method__embedding": 12, "method__projection": (16, 8), "method__patch_bins": (8, 2),
        "method__modalities": ("mic", "acc"),
        "method__views": Views(time=("negate", "scale"), frequency=()),
    },
    "stfnet_merges": {
        "method__encoder": STF(windows=(16, 32), pooled=(12, 24), width=8, sensor_width=4, taps=8,
                               depth=2, dropout=0.0, eps_in_covariance=True),
    },
}  # fmt: skip
MOTION = tuple(
    SignalSpec(name, 50.0, 128, 3, mean=(0.1,) * 3, std=(1.5,) * 3) for name in ("acc", "gyro")
)
DATA = {
    "ast": DataSpec((SECOND,), tuple("abcd"), multi_label=True),
    "mae": DataSpec(MOTION),
    "freqmae": SENSORS,
    "focal": SENSORS,
    "stfnet_merges": DataSpec(MOTION, tuple("ab")),
}


@pytest.fixture(scope="module")
def benches(request):
    """The modules of experiments/bench, which no package holds."""
    folder = str(request.config.rootpath / "experiments" / "bench")
    sys.path.insert(0, folder)
    import beside_torch  # pyright: ignore[reportMissingImports]
    import method_cases  # pyright: ignore[reportMissingImports]

    yield method_cases.CASES, beside_torch
    for name in ("common", "beside_torch", "method_cases"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", SMALL)
def test_first_step_is_that_of_pytorch(benches, name):
    cases, bench = benches
    case = cases[name]
    case = dataclasses.replace(
        case,
        data=DATA.get(name, DataSpec((SECOND,))),
        batch=8 if name == "focal" else 3,
        changes={**case.changes, **SMALL[name]},
    )
    batch = case.sample(case.experiment.method)
    step = bench.jfreq_step(case, batch)
    calls = bench.encoders(case, step, batch)
    assert bench.same_vectors(calls) < 1e-3
    found = bench.agreement(case, step, batch)
    assert found["loss of jfreq"] == pytest.approx(found["loss of torch"], rel=1e-4)
