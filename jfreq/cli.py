"""``jfreq``: the command line. Exit codes: 0 done, 2 bad input or configuration (one line on
stderr), 1 internal error, 128 + signal when stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import AvoidSubcommands, Positional, arg

from jfreq.config import Experiment, close_match
from jfreq.types import InputError

T = TypeVar("T")
Flat = Annotated[Experiment, arg(name=""), AvoidSubcommands]
HELP = ("-h", "--help")
DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST,
)  # fmt: skip
"""What the place of an output can have against it."""


# ------------------------------------------------------------------ data


def data_prepare(
    name: Positional[str],
    /,
    out: Path,
    source: str | None = None,
    kind: Literal["auto", "index", "folders", "audioset", "sensors"] = "auto",
    rate: float | None = None,
    seconds: float | None = None,
    hop_seconds: float | None = None,
    mix: Literal["first", "mean", "keep"] = "first",
    modalities: tuple[str, ...] = (),
    labels: tuple[str, ...] = (),
    drop_labels: tuple[str, ...] = (),
    clips: Path | None = None,
    n: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    strict: bool = False,
) -> None:
    """Turns recordings into shards that `jfreq train` reads.

    Args:
        name: name of the set. Without --source it is the source too: a folder, `tfds:NAME`, or
            `synthetic:machines|tones|motion`.
        out: folder of the shards; an interrupted call goes on there.
        source: folder (index.csv, a folder per class, sensor files) or AudioSet segment CSV.
        kind: layout of the source; auto looks.
        rate: rate of the shards in Hz; audio: 16000, sensors: as recorded.
        seconds: length of a window; by default that of the longest clip, at most 10 s.
        hop_seconds: step between windows of long recordings; by default no overlap.
        mix: audio: the first channel, the mean of all, or keep them all.
        modalities: names for channels, for instance acc:0-2 gyro:3-5.
        labels: class names in order, or one class_labels_indices.csv (AudioSet needs it).
        drop_labels: patterns of classes to leave out.
        clips: AudioSet: folder of the clips.
        n: synthetic: number of rows; by default 24 per class.
        seed: synthetic: seed.
        workers: decoding threads; by default one per core.
        strict: refuse a set with an unreadable, empty, NaN or wrong-rate file.
    """
    from jfreq.data.prepare import prepare
    from jfreq.data.records import describe, open_shards

    file = len(labels) == 1 and labels[0].endswith(".csv")
    prepare(
        source or name, out, name=name if source else None, kind=kind, rate=rate,
        seconds=seconds, hop_seconds=hop_seconds, mix=mix, modalities=modalities,
        labels=Path(labels[0]) if file else labels, drop_labels=drop_labels, clips=clips,
        n=n, seed=seed, workers=workers, strict=strict,
    )  # fmt: skip
    print(describe(open_shards(out)))


def data_info(shards: Positional[Path]) -> None:
    """What a folder of shards holds."""
    from jfreq.data.records import describe, open_shards

    print(describe(open_shards(shards)))


def data_peek(shards: Positional[Path], n: int = 4) -> None:
    """The first rows of a folder of shards."""
    from jfreq.data.records import open_shards, peek

    print(peek(open_shards(shards), n))


# ------------------------------------------------------------------ train


@dataclasses.dataclass
class _Train:
    experiment: Flat
    workdir: Path
    """Folder of the run; a run that lies there is continued."""
    data: tuple[str, ...] = ()
    """Shard folders."""


def train(argv: Sequence[str]) -> None:
    """Trains an experiment: jfreq train NAME --data SHARDS --workdir RUN [--steps N ...]"""
    name, rest = _experiment_name("train", argv)
    from jfreq import recipes

    args = _parse(
        _Train, args=rest, prog=f"jfreq train {name}",
        default=_Train(recipes.load(name), tyro.MISSING),
        description=f"Trains {name}. Every field of the experiment can be set.",
    )  # fmt: skip
    from jfreq.train import train as run

    run(_with_data(args.experiment, args.data), args.workdir)


@dataclasses.dataclass
class _Finetune:
    experiment: Flat
    workdir: Path
    """Folder of the fine-tuning runs, a sub-folder for each held-out fold."""
    data: tuple[str, ...] = ()
    """Labelled shards."""
    folds: tuple[str, ...] = ()
    """Held-out folds to run, for instance 1 2; all by default."""


def finetune(argv: Sequence[str]) -> None:
    """Fine-tunes a run or bundle: jfreq finetune RUN --data SHARDS --workdir RUN2"""
    trained, rest = _subject("finetune", argv, "RUN [options]; RUN is a run folder or bundle")
    from jfreq.evaluate import finetune as room

    args = _parse(
        _Finetune, args=rest, prog=f"jfreq finetune {trained}",
        default=_Finetune(room.experiment_for(trained), tyro.MISSING),
        description="Trains encoder and classifier, a run for each held-out fold.",
    )  # fmt: skip
    experiment = _with_data(args.experiment, args.data)
    print(room.finetune(experiment, args.workdir, folds=args.folds).to_markdown())


def _parse(kind: type[T], *, args: Sequence[str], prog: str, default: T, description: str) -> T:
    """Options over ``default``; what a config itself refuses comes out as its ``InputError``."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=args, prog=prog, default=default, description=description)
    except SystemExit as stop:
        error: BaseException | None = stop
        while error is not None:
            if isinstance(error, InputError):
                raise error from None
            error = error.__context__
        sys.stderr.write(said.getvalue())
        raise


def _with_data(experiment: Experiment, paths: tuple[str, ...]) -> Experiment:
    from jfreq.config import replace

    return replace(experiment, data__path=tuple(paths)) if paths else experiment


def _experiment_name(command: str, argv: Sequence[str]) -> tuple[str, list[str]]:
    from jfreq import recipes

    named = argv and not argv[0].startswith("-")
    names = "" if named else ", ".join(sorted(recipes.load_all()))
    return _subject(command, argv, f"NAME [options]; NAME is one of: {names}, or FILE.py:NAME")


def _subject(command: str, argv: Sequence[str], usage: str) -> tuple[str, list[str]]:
    """What the command is about, and the options after it."""
    if argv and argv[0] in HELP:
        print(f"usage: jfreq {command} {usage}")
        raise SystemExit(0)
    if not argv or argv[0].startswith("-"):
        raise InputError(f"usage: jfreq {command} {usage}")
    return argv[0], list(argv[1:])


# ------------------------------------------------------------------ use


def probe(
    trained: Positional[Path],
    /,
    data: Path,
    kinds: tuple[Literal["logistic", "ridge", "knn"], ...] = ("logistic", "ridge", "knn"),
    pool: Literal["clip", "freq", "mean_std"] = "clip",
    layer: int | None = None,
    seeds: tuple[int, ...] = (0,),
    baselines: bool = True,
    leave_one_subject_out: bool = False,
    folds: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:
    """Linear and kNN probes of a frozen encoder over the folds of the data.

    Args:
        trained: run folder or bundle.
        data: labelled shards.
        kinds: which probes.
        pool: clip vector: the method's own, means per frequency row, or mean and deviation.
        layer: state after this block (negative from the end) instead of the final norm.
        seeds: of the untrained encoder.
        baselines: add the untrained encoder and log-mel statistics to the table.
        leave_one_subject_out: folds are subjects.
        folds: test on these only, for instance the one that pre-training left out.
        out: where results.json goes; by default beside the run.
    """
    from jfreq.data.records import open_shards
    from jfreq.evaluate import protocols
    from jfreq.export.bundle import load_trained

    report = protocols.probe(
        load_trained(trained), open_shards(data), kinds=kinds, pool=pool, layer=layer, seeds=seeds,
        with_baselines=baselines, leave_one_subject_out=leave_one_subject_out,
        only=folds, progress=_bars(),
    )  # fmt: skip
    print(report.to_markdown())
    report.save((out or trained) / "results.json")


def export(trained: Positional[Path], out: Path, note: str = "") -> None:
    """Writes the frozen encoder of a run as a bundle.

    Args:
        trained: run folder.
        out: folder of the bundle.
        note: a sentence for the model card.
    """
    from jfreq.export.bundle import export_run

    print(export_run(trained, out, note=note))


def embed(encoder: Positional[Path], files: Positional[tuple[Path, ...]], /, out: Path) -> None:
    """Embeds recordings of any length and rate into one .npz.

    Args:
        encoder: bundle or run folder.
        files: audio files.
        out: the .npz.
    """
    from jfreq.export.runtime import embed_files, load_encoder

    progress = functools.partial(_bars(), "files")
    print(embed_files(load_encoder(encoder), files, out, progress=progress))


def _bars() -> Callable[[str, int, int], None]:
    """Shows a job of several parts: ``show(part, done, total)``; ten lines each off a terminal."""
    from jfreq.report.progress import Progress

    bars: dict[str, tuple[Progress, int]] = {}

    def show(part: str, done: int, total: int) -> None:
        bar, told = bars.pop(part, None) or (Progress(total, title=part), 0)
        tenth = 10 * done // total
        if tenth > told:
            bar.update(done, "")
        if done < total:
            bars[part] = bar, tenth
        else:
            bar.close()

    return show


# ------------------------------------------------------------------ config


def config(argv: Sequence[str]) -> None:
    """Looks into an experiment: jfreq config show|diff|params|shardings NAME [options]"""
    from jfreq import views

    view, rest = _subject("config", argv, f"{'|'.join(views.VIEWS)} NAME [options]")
    if view not in views.VIEWS:
        hint = close_match(view, views.VIEWS)
        raise InputError(f"config: no view {view!r}{hint}; there are: {', '.join(views.VIEWS)}")
    name, rest = _experiment_name(f"config {view}", rest)
    from jfreq import recipes

    experiment = recipes.load(name)
    args = _parse(
        views.View, args=rest, prog=f"jfreq config {view} {name}",
        default=views.View(experiment), description=f"Looks into {name}.",
    )  # fmt: skip
    print(views.VIEWS[view](args, experiment))


# ------------------------------------------------------------------ dispatch

COMMANDS: dict[str, Callable[..., Any]] = {
    "data prepare": data_prepare,
    "data info": data_info,
    "data peek": data_peek,
    "train": train,
    "probe": probe,
    "finetune": finetune,
    "export": export,
    "embed": embed,
    "config": config,
}


def _usage(group: str = "") -> str:
    first = {name: (fn.__doc__ or "").splitlines()[0] for name, fn in COMMANDS.items()}
    lines = [f"  {name:14} {text}" for name, text in first.items() if name.startswith(group)]
    return (
        f"usage: jfreq {group or 'COMMAND'} ...\n\n"
        + "\n".join(lines)
        + "\n\njfreq COMMAND --help tells more."
    )


def run(argv: Sequence[str]) -> None:
    """Runs one command line."""
    group = "data" if argv and argv[0] == "data" else ""
    inner = argv[1:] if group else argv
    if not inner or inner[0] in HELP:
        print(_usage(group))
        return
    if argv[0] == "--version":
        import jfreq

        print(jfreq.__version__)
        return
    words = 2 if group else 1
    name, rest = " ".join(argv[:words]), list(argv[words:])
    if name not in COMMANDS:
        raise InputError(
            f"no command {name!r}{close_match(name, COMMANDS)}; jfreq --help lists them"
        )
    command = COMMANDS[name]
    if command in (train, finetune, config):
        command(rest)
    else:
        tyro.cli(command, args=rest, prog=f"jfreq {name}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: runs and turns errors into exit codes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        run(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        print(f"jfreq: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"jfreq: error: {error.filename}: cannot be written ({error.strerror}); make room or "
              "choose another place, then run the same command again", file=sys.stderr)  # fmt: skip
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except RuntimeError as error:
        from jfreq.train import NotFinite, Stopped

        if isinstance(error, Stopped):
            print(f"jfreq: {error}", file=sys.stderr)
            raise SystemExit(128 + error.signal) from None
        if isinstance(error, NotFinite):
            print(f"jfreq: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        raise


if __name__ == "__main__":
    main()
