"""What the benches share: paired rounds, medians with intervals, the machine, tables.

Contenders of one table run in one process, in turn, round after round, so that whatever slows the
machine down slows all of them; what is compared are the ratios within a round.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import processor

from jfreq.files import write_json, write_text
from jfreq.monitoring.provenance import facts, sentence
from jfreq.pages import keep_pages
from jfreq.types import InputError

RESULTS = Path(__file__).resolve().parent.parent / "results"
INSTALL = {"torch": "pip install torch==2.13.0", "librosa": "pip install librosa",
           "tensorflow": "pip install tensorflow-cpu", "pywt": "pip install PyWavelets",
           "pandas": "pip install pandas",
           "transformers": "pip install transformers", "onnxruntime": "pip install onnxruntime",
           "ai_edge_litert": "pip install ai-edge-litert"}  # fmt: skip
VERSIONS = (
    "jax",
    "jaxlib",
    "flax",
    "torch",
    "transformers",
    "onnxruntime",
    "ai-edge-litert",
    "librosa",
    "tensorflow-cpu",
    "PyWavelets",
    "pandas",
    "pyarrow",
    "numpy",
)
CONFIDENCE = 0.95
Isa = processor.Isa
PAUSE_S = 0.02
"""Pause before each timed call: worker threads of the one before stop spinning."""


# ------------------------------------------------------------------ timing


def paired(
    contenders: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, list[float]]:
    """Seconds of every call by contender, one for each round.

    A call returns when its work is done. Every round runs all contenders once and begins with the
    next one: A B C, B C A, C A B. ``warmup`` rounds come first and are not kept. Raises
    ``InputError`` for fewer than two rounds, which have no quartiles.
    """
    if rounds < 2:
        raise InputError(f"rounds: must be 2 or more, got {rounds}")
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            pause(PAUSE_S)
            began = clock()
            contenders[name]()
            spent = clock() - began
            if turn >= warmup:
                times[name].append(spent)
    return times


def jitted(fn: Callable[..., Any], x: Any) -> tuple[Callable[[], Any], float]:
    """A call of ``fn(x)`` that takes and returns numpy, and the seconds that compiling it took."""
    import jax

    run = jax.jit(fn)

    def call() -> Any:
        return jax.device_get(run(x))

    return call, first_call(call)


def first_call(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the call that compiles."""
    began = clock()
    call()
    return clock() - began


class Ratio(NamedTuple):
    """Median over rounds of one contender's time over another's in the same round.

    ``low`` and ``high``: its distribution-free 95 % interval (order statistics), NaN where there
    are too few rounds for one.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.median:.2f}"
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(times: Sequence[float], base: Sequence[float]) -> Ratio:
    """How many times as long as ``base`` the paired ``times`` are."""
    from scipy.stats import quantile_test

    if len(times) != len(base) or not times:
        raise ValueError(f"{len(times)} and {len(base)} rounds are not pairs")
    ratios = [a / b for a, b in zip(times, base)]
    middle = statistics.median(ratios)
    interval = quantile_test(ratios, p=0.5).confidence_interval(CONFIDENCE)
    return Ratio(middle, float(interval.low), float(interval.high))


# ------------------------------------------------------------------ the machine


def pin(threads: int) -> int:
    """Keeps this process on so many cores, before any backend starts; how many it got."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
    return len(cores[:threads])


def machine(threads: int) -> dict[str, Any]:
    """What a figure depends on: hardware, threads, versions, commit, how busy it is."""
    return {**facts(VERSIONS), "threads": threads, "load": round(os.getloadavg()[0], 1)}


def begin(threads: int, isa: processor.Isa | None = None) -> dict[str, Any]:
    """Pins jax and PyTorch to ``threads`` cores and, where given, to ``isa``, lets the process keep its memory, as
    jfreq's commands do, and turns the compile cache off; the machine."""
    load = round(os.getloadavg()[0], 1)
    if isa is not None:
        processor.restrict(isa)
    keep_pages()
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    threads = pin(threads)
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(threads)
    more = {} if isa is None else processor.facts(isa)
    return {**machine(threads), "load": load, **more}


def available(module: str) -> bool:
    """Whether a library that only benches use is installed; prints a line where it is not."""
    if importlib.util.find_spec(module) is not None:
        return True
    print(f"skipped: {module} is not installed ({INSTALL[module]})", file=sys.stderr)
    return False


def need(module: str) -> None:
    """``InputError`` with the line that installs what a bench cannot do without."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f"this bench compares with {module}, which is missing: {INSTALL[module]}")


def torch_device() -> Any:
    """The device of jax for PyTorch; ``InputError`` where this PyTorch cannot use it."""
    import jax
    import torch

    if jax.default_backend() == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            f"jax runs on {jax.default_backend()}, this PyTorch on CPU only; set JAX_PLATFORMS=cpu"
        )
    return torch.device("cuda")


# ------------------------------------------------------------------ a training step


@dataclasses.dataclass
class Step:
    """jfreq's compiled step and its state; calling it takes one step."""

    update: Any
    state: Any
    batch: Any
    key: Any
    mesh: Any
    compile_s: float
    spec: Any

    @property
    def flops(self) -> int:
        """Of the matrix products of a step, as progress lines count them."""
        from jfreq.monitoring.throughput import step_flops

        return step_flops(self.spec)

    def __call__(self) -> dict[str, float]:
        import jax

        with jax.set_mesh(self.mesh):
            self.state, metrics = self.update(self.state, self.batch, self.key)
        return {name: float(total / count) for name, (total, count) in metrics.items()}


def jfreq_step(experiment: Any, batch: dict[str, Any]) -> Step:
    """The step of a bound experiment on one device."""
    import jax

    from jfreq import sharding
    from jfreq.train import initial_state, plan, step

    mesh = sharding.make_mesh((1, 1, 1), jax.devices()[:1])
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    spec = plan.plan_step(experiment, shapes, mesh)
    with jax.set_mesh(mesh):
        update, compile_s = step.compile_step(spec)
        state = initial_state.first_state(spec)
        key = initial_state.run_key(spec)
    return Step(update, state, sharding.to_global(batch, mesh), key, mesh, compile_s, spec)


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    """Metrics of the first step of jfreq and of PyTorch. Raises ``InputError`` where loss or gradient
    norm differ."""
    found = {f"{name} of {who}": values[name] for name in theirs
             for who, values in (("jfreq", ours), ("torch", theirs))}  # fmt: skip
    for name, limit in (("loss", 1e-4), ("grad_norm", 1e-3)):
        if not abs(ours[name] - theirs[name]) <= limit * abs(theirs[name]):
            raise InputError(f"the models differ, nothing is timed: {found}")
    return found


# ------------------------------------------------------------------ tables


@dataclasses.dataclass
class Table:
    """Times of paired contenders; the first one is what the others are compared with."""

    title: str
    times: dict[str, list[float]]
    compile_s: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds of compilation, kept out of the times."""
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    """Parts of the processor's peak that contenders reach, counting the products of the model."""

    def ratios(self) -> dict[str, Ratio]:
        base, *others = self.times
        return {name: ratio(self.times[name], self.times[base]) for name in others}

    def to_markdown(self) -> str:
        base, found = next(iter(self.times)), self.ratios()
        lines = [
            f"## {self.title}", "",
            f"| | median ms | quartiles | x {base}, median of rounds [95 %] | compile s |",
            "|---|---|---|---|---|",
        ]  # fmt: skip
        if self.shares:
            lines[-2:] = [f"{lines[-2]} share of the peak |", f"{lines[-1]}---|"]
        for name, times in self.times.items():
            low, _, high = statistics.quantiles(times, n=4, method="inclusive")
            over = str(found[name]) if name in found else "1"
            spent = f"{self.compile_s[name]:.1f}" if name in self.compile_s else ""
            lines.append(
                f"| {name} | {_ms(statistics.median(times))} | {_ms(low)} to {_ms(high)} | {over} "
                f"| {spent} |" + (f" {self.shares[name]:.0%} |" if self.shares else "")
            )
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        return {
            "times_s": self.times,
            "compile_s": self.compile_s,
            "shares": self.shares,
            "ratios": {name: r._asdict() for name, r in self.ratios().items()},
        }


def _ms(seconds: float) -> str:
    ms = 1000 * seconds
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def file_of(name: str, facts: Mapping[str, Any]) -> str:
    """``bench_NAME``, with ``_avx2`` after it where the instruction set was restricted."""
    restricted = str(facts.get("instruction set", "")).startswith("restricted")
    return f"bench_{name}_avx2" if restricted else f"bench_{name}"


def save(
    name: str,
    heading: str,
    intro: str,
    parts: Sequence[Table | str],
    *,
    facts: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
    out: Path | None = None,
    file: str = "",
) -> str:
    """Writes ``file``, by default :func:`file_of` the bench, as ``.md`` and ``.json`` into ``out``
    (experiments/results); the Markdown."""
    folder, file = out or RESULTS, file or file_of(name, facts)
    sections = [part if isinstance(part, str) else part.to_markdown() for part in parts]
    text = "\n".join([f"# {heading}\n", f"{intro}\n", f"{sentence(dict(facts))}.\n", *sections])
    tables = {part.title: part.to_dict() for part in parts if isinstance(part, Table)}
    data = {"bench": name, "machine": dict(facts), "tables": tables, **(more or {})}
    write_text(folder / f"{file}.md", text)
    write_json(folder / f"{file}.json", data)
    return text


def run(main: Callable[..., None]) -> None:
    """Runs a bench with its options; bad input is one line and exit code 2."""
    import tyro

    try:
        tyro.cli(main)
    except InputError as error:
        print(f"jfreq: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
