"""One pre-training step of SSAST-tiny against the same model in PyTorch, eager and torch.compile.

    jfreq bench step

`ssast_tiny` on 10 s clips: batch 8, 512 tokens, two masks for each clip, forward, backward and AdamW,
once from a given spectrogram and once from int16 waveforms (front end included in all). Before
anything is timed the PyTorch model gets jfreq's parameters and the masks of its first step: losses
agree to 1e-4, gradient norms to 1e-3. jfreq's step also computes what its log shows (norms of
gradient, update and parameters).
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np

from jfreq import methods, param_paths, recipes
from jfreq.config import Optim, replace
from jfreq.method import Streams
from jfreq.methods.ssast import SSAST
from jfreq.types import DataSpec, SignalSpec

CLIP = DataSpec((SignalSpec("audio", 16000.0, 160_000),))
LR, DECAY = 5e-4, 0.01


def jfreq_step(batch: dict[str, np.ndarray], *, unroll: bool) -> common.Step:
    experiment = replace(
        recipes.load("ssast_tiny"),
        batch=len(next(iter(batch.values()))),
        optim=Optim(lr=LR, weight_decay=DECAY, schedule="constant"),
        method__encoder__unroll=unroll,
    )
    return common.jfreq_step(methods.bind(experiment, CLIP), batch)


def torch_step(model: Any, x: np.ndarray, *, compiled: bool) -> Callable[[], float]:
    """Takes one step on ``x``: ``[b 1 f t]`` float32 spectrograms, or ``[b t]`` int16 clips."""
    import torch
    from torch_models import Fbank, adamw

    device = next(model.parameters()).device
    frontend = Fbank().to(device)
    optimiser = adamw(model, lr=LR, weight_decay=DECAY)
    given = torch.from_numpy(x).to(device)
    # Inductor has no complex numbers: the front end stays as it is.
    forward = torch.compile(model) if compiled else model

    def loss_of(x):
        if x.dtype == torch.int16:
            with torch.no_grad():
                x = frontend(x.float() / 32768)
        return forward(x)

    def take() -> float:
        optimiser.zero_grad(set_to_none=True)
        loss, _ = loss_of(given)
        loss.backward()
        optimiser.step()
        return loss.item()

    return take


def check(model: Any, mine: common.Step, spectrogram: np.ndarray) -> dict[str, float]:
    """Loss and gradient norm of the first step of both, on the same weights and masks."""
    import torch
    from torch_models import load_jfreq

    cfg = mine.spec.experiment.method
    assert isinstance(cfg, SSAST)
    params = param_paths.flatten(jax.device_get(mine.state.params))
    load_jfreq(model, params)
    mask = cfg.sample_mask(Streams(mine.key).at(0)("mask"), 2 * len(spectrogram))
    device = next(model.parameters()).device
    masked = torch.from_numpy(np.array(mask.masked, np.int64)).to(device)
    loss, accuracy = model(torch.from_numpy(spectrogram).to(device), masked)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    theirs = {"loss": loss.item(), "accuracy": accuracy.item(), "grad_norm": norm.item()}
    return common.agreement(mine(), theirs)


def inputs(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """int16 clips ``[b t c]`` of noise and their normalised spectrograms ``[b t f c]``."""
    rng = np.random.default_rng(0)
    clips = rng.normal(0, 3000, (batch, 160_000, 1)).clip(-32768, 32767).astype(np.int16)
    method = methods.bind(recipes.load("ssast_tiny"), CLIP).method
    return clips, np.asarray(jax.jit(method.with_spectrogram)({"audio": clips})["spectrogram"])


def main(
    rounds: int = 15,
    batch: int = 8,
    threads: int = 2,
    unroll: bool = False,
    out: Path | None = None,
) -> None:
    """Times the steps and writes bench_step.md and .json.

    Args:
        rounds: timed rounds; every contender once in each.
        batch: clips.
        threads: cores that all contenders share.
        unroll: encoder.unroll of jfreq.
        out: folder of the results, by default experiments/results.
    """
    common.need("torch")
    cache = tempfile.TemporaryDirectory()  # compile time is a result: no cache has seen the model
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    facts = common.begin(threads)
    import torch
    import torch_models

    device = common.torch_device()
    clips, spectrogram = inputs(batch)
    channels_first = np.ascontiguousarray(spectrogram.transpose(0, 3, 2, 1))
    cases = {
        "spectrogram given": ({"spectrogram": spectrogram}, channels_first),
        "waveform given (int16, front end inside the step)": ({"audio": clips}, clips[..., 0]),
    }
    tables, agreement = [], {}
    for title, (mine, theirs) in cases.items():
        ours = jfreq_step(mine, unroll=unroll)
        if not agreement:
            agreement = check(torch_models.SSAST().to(device), ours, channels_first)
        contenders: dict[str, Callable[[], Any]] = {"jfreq": ours}
        compile_s = {"jfreq": ours.compile_s}
        for name, compiled in (("torch eager", False), ("torch.compile", True)):
            torch._dynamo.reset()
            contenders[name] = torch_step(
                torch_models.SSAST().to(device), theirs, compiled=compiled
            )
            if compiled:
                compile_s[name] = common.first_call(contenders[name])
        times = common.paired(contenders, rounds=rounds)
        tables.append(common.Table(title, times, compile_s))
        print(tables[-1].to_markdown(), flush=True)
    words = ", ".join(f"{name} {value:.6g}" for name, value in agreement.items())
    intro = (
        f"`ssast_tiny`, batch {batch}, 512 tokens, 2 masks for each clip, AdamW, float32, "
        f"{rounds} rounds; unroll {unroll}. First step on the same weights and masks: {words}."
    )
    common.save("step", "Pre-training step", intro, tables, facts=facts,
                more={"agreement": agreement, "batch": batch, "unroll": unroll}, out=out)  # fmt: skip


if __name__ == "__main__":
    common.run(main)
