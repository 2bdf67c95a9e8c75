"""One training step of the HHAR STFNet against the same network in PyTorch, and memory of its filter.

    jfreq bench stfnet

`stfnet_hhar` without dropout: batch 64, 512 samples of two sensors, forward, backward and Adam with L2;
once as released (interleaving that starts at zero and stays there, which jfreq does not compute),
once with interleaving that learns. Before anything is timed the PyTorch network gets jfreq's
parameters: losses of the first step agree to 1e-4, gradient norms to 1e-3. jfreq's step also computes
what its log shows (norms of gradient, update and parameters).

Memory: forward and backward of one layer's filter at all four resolutions, as a product of tiled
inputs with a sum over channels (the form of the released code), as an einsum, both in PyTorch, and as
jfreq computes it; each in a process of its own, peak resident memory above what it held before.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import beside_torch
import common
import jax
import numpy as np
from method_cases import CASES, Batch, Case

SAMPLES, WINDOWS, CHANNELS, WIDTH = 512, (16, 32, 64, 128), 64, 64
MERGES = {
    "as released, interleaving inert": "zero", "interleaving that learns": "xavier",
}  # fmt: skip
FORMS = ("tiled", "einsum", "jfreq")


def case_of(merge: str, batch: int) -> Case:
    changes = {"method__encoder__dropout": 0.0, "method__encoder__merge": merge}
    return dataclasses.replace(CASES["stfnet"], batch=batch, changes=changes)


def torch_step(case: Case, mine: common.Step, batch: Batch) -> Callable[[], float]:
    """The same network with the parameters of ``mine``; takes one step."""
    from torch_refs.parts import training_step

    model = case.model(mine.spec.experiment.method)
    model.load(beside_torch.host(mine.state.params))
    return training_step(model, model, case.inputs(model, batch), mine.spec.experiment.optim)


# ------------------------------------------------------------------ memory of the filter


def peak_mb(form: str, batch: int) -> float:
    """Peak memory of one form, measured in a process of its own."""
    words = [sys.executable, __file__, "--form", form, "--batch", str(batch)]
    found = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return float(json.loads(found.splitlines()[-1]))


def measure(form: str, batch: int) -> float:
    """MB of resident memory that forward and backward need above what was there before."""
    import resource

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    run = jfreq_filter(batch) if form == "jfreq" else torch_filter(form, batch)
    before = peak()
    run()
    return peak() - before


def _shapes(batch: int) -> list[tuple[int, int, int]]:
    return [(batch, SAMPLES // n, n // 2 + 1) for n in WINDOWS]


def torch_filter(form: str, batch: int) -> Callable[[], None]:
    import torch

    each = WIDTH // len(WINDOWS)
    pairs = [
        (torch.randn(*shape, CHANNELS, dtype=torch.complex64, requires_grad=True),
         torch.randn(shape[-1], CHANNELS, each, dtype=torch.complex64, requires_grad=True))
        for shape in _shapes(batch)
    ]  # fmt: skip

    def tiled(z, w):
        wide = z[..., None].repeat(1, 1, 1, 1, each)
        return (wide * w).sum(3)

    def einsum(z, w):
        return torch.einsum("bmfc,fca->bmfa", z, w)

    apply = {"tiled": tiled, "einsum": einsum}[form]

    def run() -> None:
        total = sum(apply(z, w).abs().square().sum() for z, w in pairs)
        torch.autograd.backward(total)

    return run


def jfreq_filter(batch: int) -> Callable[[], None]:
    import jax.numpy as jnp

    from jfreq.nn.stf import complex_product

    each = WIDTH // len(WINDOWS)
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    pairs = [
        ([normal(1, f, b, m, CHANNELS) for _ in range(2)], [normal(f, CHANNELS, each) for _ in range(2)])
        for b, m, f in _shapes(batch)
    ]  # fmt: skip

    def total(pairs):
        return sum(jnp.sum(jnp.square(complex_product(tuple(z), *w))) for z, w in pairs)

    run = jax.jit(jax.grad(total)).lower(pairs).compile()
    return lambda: jax.block_until_ready(run(pairs))


def memory_table(found: dict[str, float]) -> str:
    lines = ["## Memory of one layer's filter, forward and backward", "", "| form | peak MB | x tiled |",
             "|---|---|---|"]  # fmt: skip
    names = {"tiled": "tiled, PyTorch", "einsum": "einsum, PyTorch", "jfreq": "jfreq"}
    for form, mb in found.items():
        lines.append(f"| {names[form]} | {mb:,.0f} | {mb / found['tiled']:.2f} |")
    return "\n".join(lines) + "\n"


def main(
    rounds: int = 9,
    batch: int = 64,
    threads: int = 2,
    isa: common.Isa = "native",
    form: Literal["tiled", "einsum", "jfreq"] | None = None,
    out: Path | None = None,
) -> None:
    """Times the steps, measures memory and writes bench_stfnet.md and .json.

    Args:
        rounds: timed rounds; every contender once in each.
        batch: windows.
        threads: cores that all contenders share.
        isa: native, or avx2 to keep all contenders from AVX-512.
        form: only measure the memory of this form of the filter, and print it.
        out: folder of the results, by default experiments/results.
    """
    common.need("torch")
    facts = common.begin(threads, isa)
    if form is not None:
        print(json.dumps(measure(form, batch)))
        return
    memory = {name: peak_mb(name, batch) for name in FORMS}
    tables, agreement = [], {}
    for title, merge in MERGES.items():
        case = case_of(merge, batch)
        given = case.sample(case.experiment.method)
        ours = common.jfreq_step(case.experiment, given)
        theirs = torch_step(case, ours, given)
        agreement[merge] = beside_torch.agreement(case, ours, given)
        times = common.paired({"jfreq": ours, "torch": theirs}, rounds=rounds)
        tables.append(common.Table(title, times, {"jfreq": ours.compile_s}))
        print(tables[-1].to_markdown(), flush=True)
    words = "; ".join(
        f"{merge}: " + ", ".join(f"{name} {value:.6g}" for name, value in found.items())
        for merge, found in agreement.items()
    )
    intro = (
        f"`stfnet_hhar` without dropout, batch {batch}, {SAMPLES} samples of two sensors, Adam with L2, "
        f"float32, {rounds} rounds. First step on the same parameters: {words}."
    )
    common.save("stfnet", "STFNet training step", intro, [*tables, memory_table(memory)], facts=facts,
                more={"agreement": agreement, "memory_mb": memory, "batch": batch}, out=out)  # fmt: skip


if __name__ == "__main__":
    common.run(main)
