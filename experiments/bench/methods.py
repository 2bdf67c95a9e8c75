"""Every method beside the same method in PyTorch: training steps and frozen encoders, one page.

    jfreq bench methods
    python experiments/bench/methods.py --only eat mae --kinds train --rounds 5

The references (``torch_refs/``) are written from the papers. Before anything is timed a reference gets
jfreq's parameters and the masks, noise and views of its first step: losses agree to 1e-4, gradient
norms to 1e-3, clip vectors to 1e-3 of the largest number. Training: forward, backward and the
optimiser, masks and views drawn in the step, PyTorch eager and torch.compile, without dropout.
Frozen encoder: spectrogram or sensors to clip vectors. Every case is written when it is done.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import common
import processor
from beside_torch import COMPILED, EAGER, agreement, encoders, host, jfreq_step, same_vectors
from method_cases import CASES, Case

from jfreq.config import close_match
from jfreq.types import InputError

Kind = Literal["train", "embed"]
WORDS = {"train": "training step", "embed": "frozen encoder"}


# ------------------------------------------------------------------ timing


def contenders(case: Case) -> tuple[str, ...]:
    """PyTorch eager, and compiled where it can be."""
    if not case.compiled:
        return (EAGER,)
    if shutil.which("c++") is None:
        print("skipped: torch.compile needs a C++ compiler (apt-get install g++)", file=sys.stderr)
        return (EAGER,)
    return (EAGER, COMPILED)


def train_table(
    case: Case, rounds: int, facts: dict[str, Any]
) -> tuple[common.Table, dict[str, float]]:
    """Times of training steps, after losses and gradient norms agree."""
    import torch
    from torch_refs.parts import training_step

    batch = case.sample(case.experiment.method)
    step = jfreq_step(case, batch)
    start, method = host(step.state.params), step.spec.experiment.method
    found = agreement(case, step, batch)
    calls: dict[str, Callable[[], Any]] = {"jfreq": step}
    compile_s = {"jfreq": step.compile_s}
    for name in contenders(case):
        torch._dynamo.reset()
        model = case.model(method)
        model.load(start)
        compiled = name == COMPILED
        forward = torch.compile(model) if compiled else model
        inputs = case.inputs(model, batch)
        calls[name] = training_step(model, forward, inputs, step.spec.experiment.optim)
        if compiled:
            compile_s[name] = common.first_call(calls[name])
    times = common.paired(calls, rounds=rounds)
    shares = {n: processor.share(step.flops, statistics.median(t), facts) for n, t in times.items()}
    return common.Table(f"{case.title}, {WORDS['train']}", times, compile_s, shares), found


def embed_table(
    case: Case, rounds: int, facts: dict[str, Any]
) -> tuple[common.Table, dict[str, float]]:
    """Times of frozen encoders, after clip vectors agree."""
    import torch

    torch._dynamo.reset()
    batch = case.sample(case.experiment.method)
    calls = encoders(case, jfreq_step(case, batch), batch, contenders(case))
    compile_s = {name: common.first_call(call) for name, call in calls.items()}
    compile_s.pop(EAGER)
    found = {"difference of clip vectors": same_vectors(calls)}
    times = common.paired(calls, rounds=rounds)
    return common.Table(f"{case.title}, {WORDS['embed']}", times, compile_s), found


TABLES = {"train": train_table, "embed": embed_table}


# ------------------------------------------------------------------ the page

Found = dict[str, dict[str, Any]]
"""By ``case/kind`` what was measured, as JSON."""


def kept(path: Path, facts: dict[str, Any]) -> Found:
    """What an earlier run on the same machine, versions and commit has measured."""
    if not path.is_file():
        return {}
    data = json.loads(path.read_text())
    changing = dict.fromkeys(("load", processor.PEAK))
    before = {**data.get("machine", {}), **changing}
    return data.get("measured", {}) if before == {**facts, **changing} else {}


def page(found: Found) -> str:
    """One line for each method, what was timed, and what it was compared with."""
    lines = [
        "| method | batch | what | jfreq ms | against | ms | x jfreq, median of rounds [95 %] | compile s, jfreq and theirs | share of the peak, jfreq and theirs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        for kind, words in WORDS.items():
            entry = found.get(f"{name}/{kind}")
            if entry is None:
                continue
            table = common.Table("", entry["times_s"], entry["compile_s"])
            middle = {k: f"{1000 * statistics.median(v):,.0f}" for k, v in table.times.items()}
            spent = {k: f"{v:.1f}" for k, v in table.compile_s.items()}
            shares = {k: f"{v:.0%}" for k, v in entry.get("shares", {}).items()}
            for other, ratio in table.ratios().items():
                lines.append(
                    f"| {case.title} | {case.batch} | {words} | {middle['jfreq']} | {other} | "
                    f"{middle[other]} | {ratio} | {spent['jfreq']}, {spent.get(other, 'none')} | "
                    f"{', '.join(shares[name] for name in ('jfreq', other) if shares)} |"
                )
    return "\n".join(lines) + "\n"


def write(found: Found, facts: dict[str, Any], rounds: int, out: Path | None) -> None:
    intro = (
        f"float32, {rounds} rounds; a ratio above 1 means that jfreq is so many times as fast. Weights, "
        "masks, noise and views of the first step are the same: losses agree to 1e-4, gradient "
        "norms to 1e-3, clip vectors to 1e-3. Steps draw their own masks and views, and have no "
        "dropout. torch.compile has no code for complex numbers, so STFNets are not compiled, and "
        "was not done with FreqMAE after five minutes."
    )
    common.save("methods", "Every method beside PyTorch", intro, [page(found)], facts=facts,
                more={"measured": found}, out=out)  # fmt: skip


def chosen(only: tuple[str, ...]) -> dict[str, Case]:
    """The cases of these names, or all. Raises ``InputError`` for another name."""
    for name in only:
        if name not in CASES:
            raise InputError(
                f"only: no case {name!r}{close_match(name, CASES)}; there are: {', '.join(CASES)}"
            )
    return {name: case for name, case in CASES.items() if not only or name in only}


def main(
    rounds: int = 9,
    only: tuple[str, ...] = (),
    kinds: tuple[Kind, ...] = ("train", "embed"),
    threads: int = 2,
    isa: common.Isa = "native",
    out: Path | None = None,
) -> None:
    """Times the methods and writes bench_methods.md and .json, after each case.

    Args:
        rounds: timed rounds; every contender once in each.
        only: names of cases; by default all. Results of others that an earlier run has measured on
            the same machine at the same commit stay on the page.
        kinds: what is timed.
        threads: cores that all contenders share.
        isa: native, or avx2 to keep all contenders from AVX-512.
        out: folder of the results, by default experiments/results.
    """
    common.need("torch")
    cases = chosen(only)
    cache = tempfile.TemporaryDirectory()  # compile time is a result: no cache has seen the model
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    facts = common.begin(threads, isa)
    import torch

    torch.set_default_device(common.torch_device())
    found = kept((out or common.RESULTS) / f"{common.file_of('methods', facts)}.json", facts)
    for name, case in cases.items():
        for kind in kinds:
            table, agreed = TABLES[kind](case, rounds, facts)
            found[f"{name}/{kind}"] = {**table.to_dict(), "batch": case.batch, "agreement": agreed}
            write(found, facts, rounds, out)
            print(table.to_markdown(), flush=True)


if __name__ == "__main__":
    common.run(main)
