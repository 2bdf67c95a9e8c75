"""How much an encoder's output moves when the sound is shifted by less than a patch.

    python -m experiments.studies.alias.shift --runs plain=runs/plain even=runs/even --shards shards/esc10
    python -m experiments.studies.alias.shift --shards shards/esc10 \\
        --runs plain=runs/ablate/esc10/plain even=runs/ablate/esc10/even    # all trainings of a cell

Windows of one recording that start 1, 2, ... frames later than the first, all inside the recording, are
encoded by trained encoders and by the same as initialised. Change: |e(s) - e(0)| over the mean distance
between different clips' e(0), so that an encoder that maps all clips to one vector gains nothing; also over
|e(0)|. Clip vectors, and tokens against the token of the same place. Each training reads the clips it
left out; intervals are over trainings, or over clips where there is one training of each. Writes
`alias_shift.md`, `.json` and `.svg`.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.sensors.common import RESULTS, markdown, save
from experiments.studies.sensors.common import spread as as_text
from jfreq.config import check
from jfreq.data.shards.reader import Shards, open_shards
from jfreq.evaluate.results import TRAINED, UNTRAINED
from jfreq.method import Streams
from jfreq.methods.common.patches import PatchMethod
from jfreq.metrics import Interval, interval
from jfreq.train.checkpoint import load_run
from jfreq.train.state import Trained
from jfreq.types import Array, Batch, PyTree

PARTS = ("clip vector", "tokens")
Encode = Callable[[PyTree, Batch], tuple[Array, Array, Array]]
"""``clip [b d]``, ``tokens [b n d]`` and ``valid [n]``, compiled."""
Found: TypeAlias = "dict[tuple[str, str], Change]"
"""By name of the encoder, and trained or not."""


class Plan(NamedTuple):
    """The windows: ``size`` samples that begin at ``starts``, the first at 0."""

    size: int
    starts: tuple[int, ...]
    frames: int
    hop: int
    rate: float


class Change(NamedTuple):
    """One encoder: of every shift and clip ``[s c]`` the change over the spread between clips,
    ``spread``, and over the size of what is compared, ``size``, by part. Of several trainings: their
    means over clips, ``[s r]``."""

    spread: dict[str, np.ndarray]
    size: dict[str, np.ndarray]


# ------------------------------------------------------------------ which windows


def plan(cfg: PatchMethod, samples: int, shifts: int) -> Plan:
    """Windows of whole patches, as long as the encoder and recordings of ``samples`` allow."""
    signal, frontend, most, patch, *_ = cfg.geometry
    hop, size, width = frontend.hop_length, frontend.win_length, patch[0]
    longest = min(signal.samples, samples - shifts * hop)
    frames = min((longest - size) // hop + 1, most) // width * width
    check(frames > 0, "--shards", f"recordings of {samples / signal.rate:.3g} s are too short "
          f"for a patch and {shifts} shifts; prepare longer ones")  # fmt: skip
    starts = tuple(range(0, (shifts + 1) * hop, hop))
    return Plan(size + (frames - 1) * hop, starts, frames, hop, signal.rate)


def held_out(shards: Shards, runs: dict[str, Trained], folds: Sequence[int]) -> np.ndarray:
    """Rows of ``folds``; else of those that every run has left out, or of the split ``test``."""
    left = {tuple(run.experiment.data.exclude_folds) for run in runs.values()}
    check(bool(folds) or len(left) == 1, "--folds", f"the runs left out different folds: {left}")
    folds = list(folds) or list(left.pop())
    if folds:
        return shards.rows(folds=folds)
    check("test" in shards.info.splits, "--folds", "the runs left out no fold and the shards have "
          "no split 'test'; say which folds to read")  # fmt: skip
    return shards.rows("test")


def common_signal(runs: dict[str, Trained], shards: Shards) -> PatchMethod:
    """The config of the first run, whose signal, hop and patches in time all others must have."""
    found: dict[tuple, str] = {}
    for name, run in runs.items():
        cfg = run.experiment.method
        check(isinstance(cfg, PatchMethod), "--runs", f"{name} reads no spectrogram")
        signal, front, frames, patch, *_ = cast(PatchMethod, cfg).geometry
        found[(signal.name, signal.rate, signal.samples, signal.channels, front.win_length,
               front.hop_length, patch[0], frames)] = name  # fmt: skip
    check(len(found) == 1, "--runs", f"{', '.join(found.values())} read different signals, lengths, "
          "hops or patches; compare encoders of the same")  # fmt: skip
    cfg = cast(PatchMethod, next(iter(runs.values())).experiment.method)
    wanted = cfg.geometry.signal
    signal = shards.spec.signal(wanted.name)
    same = (signal.rate, signal.channels) == (wanted.rate, wanted.channels)
    check(same, "--shards", f"hold {signal.channels} channels at {signal.rate:g} Hz, the encoders "
          f"read {wanted.channels} at {wanted.rate:g} Hz")  # fmt: skip
    return cfg


def windows(x: np.ndarray, cfg: PatchMethod, found: Plan, start: int) -> Batch:
    """One shift of recordings ``[b t c]``; what is left of the encoder's window is padding."""
    signal = cfg.geometry.signal
    part = x[:, start : start + found.size]
    part = np.pad(part, ((0, 0), (0, signal.samples - found.size), (0, 0)))
    length = np.full(len(x), found.size, np.int32)
    return {signal.name: jnp.asarray(part), "length": jnp.asarray(length)}


# ------------------------------------------------------------------ encode and compare


@functools.cache
def encoder(method: PatchMethod) -> Encode:
    def encode(params: PyTree, batch: Batch) -> tuple[Array, Array, Array]:
        found = method.encode(params, batch)
        return found.clip, found.tokens, found.valid[0]

    return jax.jit(encode)


def initial(cfg: PatchMethod, seed: int) -> PyTree:
    """Parameters as training starts with."""
    return jax.jit(cfg.init)(Streams(jax.random.key(seed))("init"))


def outputs(
    encode: Encode, params: PyTree, x: np.ndarray, cfg: PatchMethod, found: Plan, batch: int
) -> Iterator[dict[str, np.ndarray]]:
    """By shift and part ``[c n d]``, a clip vector being one token."""
    for start in found.starts:
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for first in range(0, len(x), batch):
            rows = np.arange(first, first + batch) % len(x)  # one shape, one compilation
            clip, tokens, valid = encode(params, windows(x[rows], cfg, found, start))
            keep = min(batch, len(x) - first)
            real = np.asarray(tokens)[:keep, np.asarray(valid)]
            parts.append((np.asarray(clip)[:keep, None], real))
        yield dict(zip(PARTS, (np.concatenate(part) for part in zip(*parts))))


def changes(every: Iterator[dict[str, np.ndarray]]) -> Change:
    base = next(every)
    spread = {part: between(x) for part, x in base.items()}
    size = {part: np.linalg.norm(x, axis=-1) for part, x in base.items()}
    over: tuple[dict[str, list], dict[str, list]] = ({p: [] for p in PARTS}, {p: [] for p in PARTS})
    for moved in every:
        for part, x in moved.items():
            far = np.linalg.norm(x - base[part], axis=-1)
            over[0][part].append(far.mean(axis=1) / spread[part])
            over[1][part].append((far / size[part]).mean(axis=1))
    return Change(*({part: np.array(rows) for part, rows in found.items()} for found in over))


def over_trainings(each: Sequence[Found]) -> Found:
    """One training as it is; of several the means over clips."""
    if len(each) == 1:
        return each[0]

    def means(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {part: np.stack([x[part].mean(axis=1) for x in parts], axis=1) for part in PARTS}

    return {
        key: Change(*(means([getattr(one[key], over) for one in each]) for over in Change._fields))
        for key in each[0]
    }


def between(x: np.ndarray) -> float:
    """Mean distance of the tokens ``[c n d]`` of two different clips at the same place."""
    from scipy.spatial.distance import pdist

    return float(np.mean([pdist(x[:, place]).mean() for place in range(x.shape[1])]))


# ------------------------------------------------------------------ page and figure


def page(found: Found, made: Plan, clips: int, trainings: int, source: str) -> list[str]:
    names = list(dict.fromkeys(name for name, _ in found))
    unit = "training" if trainings > 1 else "clip"
    shifts, ms = len(made.starts) - 1, 1000 * made.hop / made.rate
    text = [
        "# Encoders under shifts by less than a patch",
        "",
        f"{trainings} trainings of each encoder, {clips} clips of {source} that they left out, windows "
        f"of {made.frames} frames that start 1 to {shifts} frames ({ms:g} to {shifts * ms:g} ms)",
        "later, against the window at 0: distance over the mean distance between different clips",
        "(spread) and over its own length (size); tokens are compared with the token of the same place.",
        f"Mean with the Student-t 95 % interval over {unit}s; differences from `{names[0]}` are paired by "
        f"{unit}.",
        "",
        "## Mean over shifts",
        "",
    ]
    rows = []
    for (name, kind), change in found.items():
        row = [name, kind]
        for part in PARTS:
            mine = change.spread[part].mean(axis=0)
            gain = mine - found[names[0], kind].spread[part].mean(axis=0)
            row += [as_text(mine), "" if name == names[0] else as_text(gain),
                    f"{change.size[part].mean():.3f}"]  # fmt: skip
        rows.append(row)
    head = ["encoder", "", *(f"{part}, {what}" for part in PARTS
            for what in ("over spread", f"less {names[0]}'s", "over size"))]  # fmt: skip
    text += markdown(head, rows)
    for part in PARTS:
        text += [f"## {part[0].upper()}{part[1:]}, over spread, by shift", ""]
        rows = [[f"{s + 1}", *(as_text(change.spread[part][s]) for change in found.values())]
                for s in range(shifts)]  # fmt: skip
        text += markdown(["frames", *(f"{name}, {kind}" for name, kind in found)], rows)
    return [*text, "`python -m experiments.studies.alias.shift` repeats it.", ""]


def numbers(found: Found) -> list[dict[str, Any]]:
    """Means and intervals by encoder, part and shift."""
    return [
        {"encoder": name, "kind": kind, "part": part, "over": over,
         "mean": interval(values.mean(axis=0))._asdict(),
         "by_shift": [interval(each)._asdict() for each in values]}
        for (name, kind), change in found.items()
        for over, parts in change._asdict().items()
        for part, values in parts.items()
    ]  # fmt: skip


def figure_of(found: Found, path: Path) -> Path:
    from jfreq.evaluate.plot import STYLES
    from jfreq.evaluate.plot import save as save_figure

    names = list(dict.fromkeys(name for name, _ in found))
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}

    def draw(figure: Any) -> None:
        every = figure.subplots(2, len(PARTS), sharex=True, sharey="col", squeeze=False)
        handles: dict[str, Any] = {}
        for line, kind in zip(every, (TRAINED, UNTRAINED)):
            for axes, part in zip(line, PARTS):
                for name in names:
                    by_shift = [interval(c) for c in found[name, kind].spread[part]]
                    handles[name] = _curve(axes, by_shift, styles[name])
                axes.set_title(f"{part}, {kind}", fontsize=8)
                axes.grid(axis="y", color="0.9", linewidth=0.6)
            line[0].set_ylabel("change over spread of clips")
        for axes in every[-1]:  # once all lines of a column are there
            axes.set_ylim(bottom=0)
            axes.set_xlabel("shift in frames")
        figure.legend(handles.values(), handles, loc="outside lower center", frameon=False,
                      ncols=min(len(names), 5), handlelength=4)  # fmt: skip

    return save_figure(path, path.stem, (6.4, 4.6), draw)


def _curve(axes: Any, points: list[Interval], style: tuple[str, Any, str]) -> Any:
    colour, dashes, marker = style
    x = np.arange(1, len(points) + 1)
    axes.fill_between(x, [p.low for p in points], [p.high for p in points], color=colour,
                      alpha=0.15, linewidth=0)  # fmt: skip
    (handle,) = axes.plot(x, [p.mean for p in points], color=colour, linestyle=dashes,
                          marker=marker, markersize=3, linewidth=1.2)  # fmt: skip
    return handle


def trainings(folder: Path) -> list[Trained]:
    """The run in ``folder``, or those in its sub-folders, as a cell of an ablation keeps them."""
    runs = [folder] if (folder / "config.json").exists() else sorted(
        path.parent for path in folder.glob("*/config.json")
    )  # fmt: skip
    check(bool(runs), "--runs", f"{folder} holds no run")
    return [load_run(run) for run in runs]


def measured(
    runs: dict[str, Trained], shards: Shards, args: argparse.Namespace
) -> tuple[Found, Plan, int]:
    """One training of each encoder, on clips that all of them left out; how many those are."""
    cfg = common_signal(runs, shards)
    shifts = cfg.geometry.patch[0] - 1 if args.shifts is None else args.shifts
    check(shifts >= 1, "--shifts", "must be 1 or more")
    rows = held_out(shards, runs, args.folds)
    lengths = shards.column("length")[rows]
    made = plan(cfg, int(lengths.max()), shifts)
    rows = rows[lengths >= made.size + made.starts[-1]]
    if args.clips:
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, args.clips).astype(int))]
    check(len(rows) >= 2, "--folds", "fewer than two clips are long enough")
    x = shards.read(rows)[cfg.geometry.signal.name]
    found: Found = {}
    for name, run in runs.items():
        method = cast(PatchMethod, run.experiment.method)
        fresh = initial(method, run.experiment.seed)
        for kind, params in ((TRAINED, run.params), (UNTRAINED, fresh)):
            every = outputs(encoder(method), jax.device_put(params), x, method, made, args.batch)
            found[name, kind] = changes(every)
            means = {part: y.mean() for part, y in found[name, kind].spread.items()}
            print(name, kind, *(f"{part} {mean:.3f}" for part, mean in means.items()), flush=True)
    return found, made, len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", nargs="+", required=True, metavar="NAME=FOLDER",
                        help="a run, or a folder of several; the first is what the others are compared with")  # fmt: skip
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="*", default=[],
                        help="to read; by default those the runs left out")  # fmt: skip
    parser.add_argument("--clips", type=int, help="at most so many of them, evenly spaced")
    parser.add_argument("--shifts", type=int, help="frames; by default one less than a patch")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    pairs = [word.partition("=") for word in args.runs]
    check(all(name and folder for name, _, folder in pairs), "--runs", "wants NAME=FOLDER")
    runs = {name: trainings(Path(folder)) for name, _, folder in pairs}
    counts = {len(each) for each in runs.values()}
    check(len(counts) == 1, "--runs", "give as many trainings of every encoder")
    shards = open_shards(args.shards)
    each = [measured(dict(zip(runs, together)), shards, args) for together in zip(*runs.values())]
    found, made = over_trainings([one for one, _, _ in each]), each[0][1]
    clips = sum(count for _, _, count in each)
    body = {"shards": shards.info.name, "clips": clips, "trainings": len(each),
            "plan": made._asdict(), "runs": list(runs), "changes": numbers(found)}  # fmt: skip
    save("alias_shift", page(found, made, clips, len(each), shards.info.name), body, args.out)
    print(figure_of(found, args.out / "alias_shift.svg"))


if __name__ == "__main__":
    main()
