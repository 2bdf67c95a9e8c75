"""What aliasing-aware patches and clones cost: training steps, time by clones, memory, arithmetic.

    jfreq bench aape

Steps of `eat_tiny` as it is and behind alias branches of `aape_tiny`'s size, and of `aape_tiny`, from
int16 waveforms of 5 s (synthetic tones) to updated parameters, on one device. Clones: `eat_tiny` from a
given spectrogram, whose teacher sees a clip once however many clones the student has. Memory is XLA's own
analysis of the compiled gradient of the kernels beside a plain evaluator, which lays out every output's
neighbourhood. Arithmetic counts matrix products and convolutions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import common
import jax
import jax.numpy as jnp
import numpy as np

from jfreq import methods, recipes
from jfreq.config import Experiment, replace
from jfreq.data.sources import synthetic
from jfreq.methods.aasp import AaSP
from jfreq.methods.eat import EAT
from jfreq.monitoring import flops
from jfreq.nn.patch_encoder import SpectrogramTrunk
from jfreq.ops import sblu
from jfreq.train.step import make_step
from jfreq.types import DataSpec, SignalSpec

RATE, SECONDS = 16_000, 5.0
CLONES = (1, 4, 16)
PATCH, TAPS = 16, 49
PLAIN = "EAT-tiny"
Clips = dict[str, np.ndarray]


# ------------------------------------------------------------------ what is timed


def clips(rows: int) -> tuple[DataSpec, Clips]:
    """Tones as training reads them, and what they promise."""
    found = synthetic.make("tones", n=rows, seconds=SECONDS)
    x = np.stack([clip.signals["audio"][0].reshape(-1, 1) for clip in found])
    batch = {"audio": x, "length": np.full(rows, x.shape[1], np.int32),
             "_mask": np.ones(rows, np.float32)}  # fmt: skip
    return DataSpec((SignalSpec("audio", float(RATE), x.shape[1]),)), batch


def recipe(name: str, rows: int, clones: int) -> Experiment:
    return replace(recipes.load(name), batch=rows, method__clones=clones)


def experiments(rows: int, clones: int) -> dict[str, Experiment]:
    """By the name of a row; the first is what the others are compared with."""
    plain, aasp = (recipe(name, rows, clones) for name in ("eat_tiny", "aape_tiny"))
    assert isinstance(aasp.method, AaSP)
    even = replace(plain, method__embed="aape", method__aape=aasp.method.aape)
    hermitian = replace(even, method__aape__phase="hermitian")
    return {PLAIN: plain, f"{PLAIN}, AaPE even": even, f"{PLAIN}, AaPE hermitian": hermitian,
            "AaSP-tiny": aasp}  # fmt: skip


def steps_table(spec: DataSpec, batch: Clips, clones: int, rounds: int) -> common.Table:
    steps = {
        name: common.jfreq_step(methods.bind(experiment, spec), batch)
        for name, experiment in experiments(len(batch["_mask"]), clones).items()
    }
    times = common.paired(steps, rounds=rounds)
    compile_s = {name: step.compile_s for name, step in steps.items()}
    return common.Table(f"Training steps, {clones} clones", times, compile_s)


def clone_tables(spec: DataSpec, batch: Clips, rounds: int) -> tuple[list[Any], dict[str, Any]]:
    """Steps by number of clones and the teacher's pass alone."""
    rows = len(batch["_mask"])
    found = {c: methods.bind(recipe("eat_tiny", rows, c), spec) for c in CLONES}
    method = found[1].method
    given = {
        "spectrogram": np.asarray(jax.jit(method.with_spectrogram)(dict(batch))["spectrogram"])
    }
    steps = {c: common.jfreq_step(experiment, given) for c, experiment in found.items()}
    teacher, work = teacher_pass(steps[CLONES[0]], given)
    contenders: dict[str, Callable[[], Any]] = {_clones(c): step for c, step in steps.items()}
    times = common.paired({**contenders, "teacher alone": teacher}, rounds=rounds)
    table = common.Table(f"Steps of {PLAIN} by clones, spectrogram given", times,
                         {_clones(c): step.compile_s for c, step in steps.items()})  # fmt: skip
    done = {
        _clones(c): flops.count(make_step(s.spec), s.spec.abstract, s.spec.batch_spec, s.key)
        for c, s in steps.items()
    }
    return [table, clone_page(times, done | {"teacher alone": work}, rows)], {"flops": done}


def teacher_pass(step: common.Step, given: Clips) -> tuple[Callable[[], Any], int]:
    """A call that runs the teacher of ``step`` over ``given``; its arithmetic."""
    cfg = step.spec.experiment.method
    assert isinstance(cfg, EAT)
    # Steps give their state away.
    params = jax.tree.map(jnp.copy, step.state.target["trunk"])
    run = jax.jit(cfg.teacher_targets)
    spec = jnp.asarray(given["spectrogram"])
    return lambda: run(params, spec).block_until_ready(), flops.count(run, params, spec)


def _clones(count: int) -> str:
    return f"{count} clone" + "s" * (count > 1)


def clone_page(times: dict[str, list[float]], work: dict[str, int], rows: int) -> str:
    """Time per view, rates, and how many times one clone's step the others take."""
    teacher = times["teacher alone"]
    lines = ["## What a clone costs", "",
             "| | ms a view | GFLOP a step | GFLOP/s | x 1 clone | x without the teacher | "
             "x FLOPs |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    first = times[_clones(1)]
    for name, spent in times.items():
        alone = spent is teacher
        count = 1 if alone else int(name.split()[0])
        middle = float(np.median(spent))
        left, least = ([a - b for a, b in zip(x, teacher)] for x in (spent, first))
        over = ("", "", "") if alone else (
            str(common.ratio(spent, first)), str(common.ratio(left, least)),
            f"{work[name] / work[_clones(1)]:.2f}",
        )  # fmt: skip
        lines.append(
            f"| {name} | {1000 * middle / count / rows:.1f} | {work[name] / 1e9:.1f} | "
            f"{work[name] / 1e9 / middle:.1f} | {' | '.join(over)} |"
        )
    return "\n".join([*lines, "", "Ratios: median of rounds [95 %]; without the teacher: its pass "
                      "alone, timed in the same round, taken off both.", ""])  # fmt: skip


# ------------------------------------------------------------------ the kernels' gradient


def gathered(near: jax.Array, alpha: jax.Array, beta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """:func:`sblu.apply` with every output's neighbourhood laid out, ``[b p n k c]``."""
    re, im = sblu.kernel(alpha, beta, taps=TAPS)
    frames = np.arange(near.shape[2] - TAPS + 1)[:, None] + np.arange(TAPS)
    near = near[:, :, frames]
    return tuple(jnp.einsum("bpnkc,bpck->bpnc", near, k) for k in (re, im))  # type: ignore[return-value]


def kernel_tables(rows: int, frames: int, channels: int, rounds: int) -> list[Any]:
    """Gradients of the kernels' outputs by signal, alpha and beta: memory and time."""
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(rows, frames, channels)), jnp.float32)
    near = sblu.windows(u, patch=PATCH, stride=PATCH, taps=TAPS)
    shape = (*near.shape[:2], channels)
    alpha = jnp.asarray(rng.uniform(0.125, 1, shape), jnp.float32)
    beta = jnp.asarray(rng.uniform(1 / 32, 0.5, shape), jnp.float32)
    ways = {"recursion": lambda *given: sblu.apply(*given, taps=TAPS), "gathered": gathered}
    calls, compile_s, work, found = {}, {}, {}, {}
    for name, evaluate in ways.items():

        def loss(*given, evaluate=evaluate):
            return sum(jnp.sum(y * y) for y in evaluate(*given))

        lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(near, alpha, beta)
        compiled, compile_s[name] = _compiled(lowered)
        work[name] = compiled.memory_analysis().temp_size_in_bytes
        calls[name] = lambda run=compiled: jax.block_until_ready(run(near, alpha, beta))
        found[name] = calls[name]()
    for ours, theirs in zip(*found.values()):
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-3, atol=1e-3 * float(jnp.abs(theirs).max())
        )
    title = (
        f"Gradient of the kernels: {rows} clips, {frames} frames, {channels} channels, {TAPS} taps"
    )
    lines = [f"## Memory of it ({work['recursion'] / work['gathered']:.3f} of the gathered form)", "",
             "| | work MiB |", "|---|---|"]  # fmt: skip
    lines += [f"| {name} | {size / 2**20:.1f} |" for name, size in work.items()]
    times = common.paired(calls, rounds=rounds)
    return [common.Table(title, times, compile_s), "\n".join(lines) + "\n", work]


def _compiled(lowered: Any) -> tuple[Any, float]:
    out: list[Any] = []
    spent = common.first_call(lambda: out.append(lowered.compile()))
    return out[0], spent


# ------------------------------------------------------------------ arithmetic


def stem_arithmetic() -> tuple[str, dict[str, float]]:
    """What the branch adds to a forward pass of ViT-B over one clip of 10 s."""
    spec = DataSpec((SignalSpec("audio", float(RATE), 10 * RATE),))
    cfg = cast(AaSP, methods.bind(recipes.load("aape_base"), spec).method)
    found = {name: _forward(replace(cfg, embed=name)) for name in ("plain", "aape")}
    (plain, whole), (stem, _) = found["plain"], found["aape"]
    grid, kernels = cfg.grid, cfg.aape.kernels
    # Two sides; a step takes and adds a complex product, in the patch drops a sample and sums.
    reach = (cfg.aape.taps - 1) // 2
    recursion = 2 * grid.size * kernels * (7 * reach + 14 * PATCH)
    numbers = {"plain patches": plain, "plain forward": whole, "AaPE patches": stem,
               "recursion, elementwise": recursion}  # fmt: skip
    added = stem - plain
    lines = ["## Arithmetic of one clip of 10 s, ViT-B", "", "| | GFLOP |", "|---|---|"]
    lines += [f"| {name} | {value / 1e9:.3f} |" for name, value in numbers.items()]
    lines += ["", f"The branch adds {added / whole:.1%} to the forward pass, with the recursion, which "
              f"the count leaves out, {(added + recursion) / whole:.1%}.", ""]  # fmt: skip
    return "\n".join(lines), {**numbers, "added": added / whole}


def _forward(cfg: AaSP) -> tuple[int, int]:
    """FLOPs of patches to tokens, and of the whole unmasked pass."""
    net, spec = cfg.trunk, jax.typeof(cfg.geometry.example)

    def whole(module: SpectrogramTrunk, spec):
        return module.encode(module.embed(spec))[:2]

    params = jax.eval_shape(lambda key, x: net.init(key, x, method=whole), jax.random.key(0), spec)
    return tuple(
        flops.count(lambda p, x, of=of: net.apply(p, x, method=of), params, spec)
        for of in (SpectrogramTrunk.embed, whole)
    )  # type: ignore[return-value]


# ------------------------------------------------------------------ all of it


def main(
    rounds: int = 15,
    rows: int = 2,
    clones: int = 16,
    threads: int = 2,
    kernels: tuple[int, int, int] = (4, 1024, 128),
    out: Path | None = None,
) -> None:
    """Times the steps; medians over ``rounds``.

    Args:
        rounds: timed rounds; every contender once in each.
        rows: clips of a step.
        clones: of every clip, in the table of steps.
        threads: cores.
        kernels: clips, frames and channels of the kernels' gradient.
        out: folder of the results, by default experiments/results.
    """
    facts = common.begin(threads)
    spec, batch = clips(rows)
    stem_page, arithmetic = stem_arithmetic()
    table, page, work = kernel_tables(*kernels, rounds)
    steps = steps_table(spec, batch, clones, rounds)
    by_clones, counted = clone_tables(spec, batch, rounds)
    method = cast(EAT, methods.bind(recipe("eat_tiny", rows, clones), spec).method)
    intro = (
        f"Batch of {rows} clips of {SECONDS:g} s ({method.grid.size} patches, of which a clone reads "
        f"{method.visible}), float32, "
        f"{rounds} rounds; the first table with {clones} clones of every clip."
    )
    print(common.save(
        "aape", "What aliasing-aware patches and clones cost", intro,
        [steps, *by_clones, table, page, stem_page], facts=facts,
        more={"memory_bytes": work, "arithmetic": arithmetic, **counted}, out=out,
    ))  # fmt: skip


if __name__ == "__main__":
    common.run(main)
