"""One pre-training step of SSAST-tiny against the same model in PyTorch, eager and torch.compile.

    jfreq bench step

`ssast_tiny` on 10 s clips: batch 8, 512 tokens, two masks for each clip, forward, backward and AdamW,
once from a given spectrogram and once from int16 waveforms (front end included in all). Before
anything is timed the PyTorch model gets jfreq's parameters and the masks of its first step: losses
agree to 1e-4, gradient norms to 1e-3. jfreq's step also computes what its log shows (norms of
gradient, update and parameters).
"""

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import beside_torch
import common
import jax
import numpy as np
import processor
from method_cases import CASES, Case

from jfreq.config import Optim

LR, DECAY = 5e-4, 0.01


def case_of(batch: int, *, unroll: bool) -> Case:
    optim = Optim(lr=LR, weight_decay=DECAY, schedule="constant")
    changes = {"optim": optim, "method__encoder__unroll": unroll}
    return dataclasses.replace(CASES["ssast"], batch=batch, changes=changes)


def torch_step(
    case: Case, mine: common.Step, x: np.ndarray, *, compiled: bool
) -> Callable[[], float]:
    """Takes one step on ``x``: ``[b 1 f t]`` float32 spectrograms, or ``[b t]`` int16 clips."""
    import torch
    from torch_refs.fbank import Fbank
    from torch_refs.parts import training_step

    model, frontend = case.model(mine.spec.experiment.method), Fbank()
    model.load(beside_torch.host(mine.state.params))
    # Inductor has no complex numbers: the front end stays as it is.
    inner = torch.compile(model) if compiled else model

    def forward(x: torch.Tensor, *, drawn: tuple[torch.Tensor, ...]) -> torch.Tensor:
        if x.dtype == torch.int16:
            with torch.no_grad():
                x = frontend(x.float() / 32768)
        return inner(x, drawn=drawn)

    given = torch.from_numpy(x).to(common.torch_device())
    return training_step(model, forward, (given,), mine.spec.experiment.optim)


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """int16 clips ``[b t c]`` of noise and their normalised spectrograms ``[b t f c]``."""
    rng = np.random.default_rng(0)
    clips = rng.normal(0, 3000, (case.batch, 160_000, 1)).clip(-32768, 32767).astype(np.int16)
    method = case.experiment.method
    return clips, np.asarray(jax.jit(method.with_spectrogram)({"audio": clips})["spectrogram"])


def main(
    rounds: int = 15,
    batch: int = 8,
    threads: int = 2,
    isa: common.Isa = "native",
    unroll: bool = False,
    out: Path | None = None,
) -> None:
    """Times the steps and writes bench_step.md and .json.

    Args:
        rounds: timed rounds; every contender once in each.
        batch: clips.
        threads: cores that all contenders share.
        isa: native, or avx2 to keep all contenders from AVX-512.
        unroll: encoder.unroll of jfreq.
        out: folder of the results, by default experiments/results.
    """
    common.need("torch")
    cache = tempfile.TemporaryDirectory()  # compile time is a result: no cache has seen the model
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    facts = common.begin(threads, isa)
    import torch

    torch.set_default_device(common.torch_device())
    case = case_of(batch, unroll=unroll)
    clips, spectrogram = inputs(case)
    channels_first = np.ascontiguousarray(spectrogram.transpose(0, 3, 2, 1))
    cases = {
        "spectrogram given": ({"spectrogram": spectrogram}, channels_first),
        "waveform given (int16, front end inside the step)": ({"audio": clips}, clips[..., 0]),
    }
    tables, agreement = [], {}
    for title, (mine, theirs) in cases.items():
        ours = common.jfreq_step(case.experiment, mine)
        if not agreement:
            agreement = beside_torch.agreement(case, ours, mine)
        contenders: dict[str, Callable[[], Any]] = {"jfreq": ours}
        compile_s = {"jfreq": ours.compile_s}
        for name, compiled in (("torch eager", False), ("torch.compile", True)):
            torch._dynamo.reset()
            contenders[name] = torch_step(case, ours, theirs, compiled=compiled)
            if compiled:
                compile_s[name] = common.first_call(contenders[name])
        times = common.paired(contenders, rounds=rounds)
        shares = {
            n: processor.share(ours.flops, statistics.median(t), facts) for n, t in times.items()
        }
        tables.append(common.Table(title, times, compile_s, shares))
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
