"""``jfreq data``: recordings into shards, and looks at shards."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from jfreq.ranges import Count, Hertz, NonNegative, Seconds, Seed, Workers

Kind = Literal[
    "auto", "index", "folders", "sensors",
    "audioset", "esc50", "esc10", "urbansound8k", "fsd50k", "speech_commands", "librispeech",
    "ravdess", "cremad", "emodb", "gtzan", "nsynth",
    "hhar", "ucihar", "motionsense", "pamap2", "realworld", "cwru", "csi", "mod", "acids",
]  # fmt: skip
"""``jfreq.data.sources.kinds.KINDS``, spelt out so that help needs no import."""
Way = Literal["amplitude", "phase_difference", "real_imag"]


def data_prepare(
    name: Positional[str],
    /,
    out: Path,
    source: str | None = None,
    kind: Kind = "auto",
    rate: Hertz | None = None,
    rates: tuple[str, ...] = (),
    seconds: Seconds | None = None,
    hop_seconds: Seconds | None = None,
    mix: Literal["first", "mean", "keep"] | None = None,
    dtype: Literal["auto", "int16", "float32"] = "auto",
    modalities: tuple[str, ...] = (),
    complex_as: tuple[Way, ...] = ("amplitude",),
    only: tuple[str, ...] = (),
    thin: tuple[str, ...] = (),
    unlabelled: bool = False,
    allow_missing: bool = False,
    fill_seconds: NonNegative = 0.1,
    guard_seconds: NonNegative | None = None,
    make_folds: Count | None = None,
    fold_by: Literal["subject", "recording", "row"] | None = None,
    replace_folds: bool = False,
    labels: tuple[str, ...] = (),
    drop_labels: tuple[str, ...] = (),
    clips: Path | None = None,
    n: Count | None = None,
    seed: Seed = 0,
    workers: Workers | None = None,
    strict: bool = False,
) -> None:
    """Turns recordings into shards that `jfreq train` reads.

    Args:
        name: name of the set. Without --source it is the source too: a folder, `tfds:NAME`, or
            `synthetic:machines|machines_load|tones|harmonic_tones|motion`.
        out: folder of the shards; an interrupted call goes on there.
        source: folder (index.csv, a folder per class, sensor files, a published set as it was
            unpacked) or AudioSet segment CSV.
        kind: layout of the source, see docs/data.md; auto looks.
        rate: rate of the shards in Hz; audio: 16000, sensors: as recorded.
        rates: rates of single modalities, for instance audio:8000 seismic:100.
        seconds: length of a window; by default that of the longest clip, at most 10 s.
        hop_seconds: step between windows of long recordings; by default no overlap.
        mix: sound of several channels: the first (the default, but for acids), their mean, or all.
        dtype: of sound in the shards; auto keeps floating-point files as float32.
        modalities: names for channels, for instance acc:0-2 gyro:gx,gy,gz (numbers or columns).
        complex_as: complex recordings: the real modalities to make.
        only: patterns of the paths to read, for instance '*/waist'.
        thin: classes to make rare, with the share of their recordings to keep: fall=0.1.
        unlabelled: also take what no label names: index.csv, speech_commands, pamap2, hhar,
            mod, acids.
        allow_missing: keep recordings that lack a modality, with zeros in its place.
        fill_seconds: longest gap of NaN to fill by linear interpolation; longer ones cut.
        guard_seconds: least distance in a recording between rows of different folds or splits.
        make_folds: divide the set into this many folds, with classes in proportion.
        fold_by: what a fold keeps whole; by default subjects where enough are known, else
            recordings. A row may be a part of a recording.
        replace_folds: make folds although the source has its own.
        labels: class names in order, or AudioSet's class_labels_indices.csv, where it does not
            lie beside the list.
        drop_labels: patterns of classes to leave out.
        clips: AudioSet: folder of the clips, where they do not lie beside the list.
        n: synthetic: number of rows; by default 24 per class.
        seed: of synthetic recordings and of --make-folds.
        workers: decoding threads; by default one per core.
        strict: refuse a set with an unreadable, empty, NaN or wrong-rate file.
    """
    from jfreq.data.prepare.run import prepare
    from jfreq.data.shards.describe import describe
    from jfreq.data.shards.reader import open_shards

    file = len(labels) == 1 and labels[0].endswith(".csv")
    prepare(
        source or name, out, name=name if source else None, kind=kind, rate=rate, rates=rates,
        seconds=seconds, hop_seconds=hop_seconds, mix=mix, dtype=dtype, modalities=modalities,
        complex_as=complex_as, only=only, thin=thin, unlabelled=unlabelled,
        allow_missing=allow_missing, fill_seconds=fill_seconds, guard_seconds=guard_seconds,
        make_folds=make_folds, fold_by=fold_by, replace_folds=replace_folds,
        labels=Path(labels[0]) if file else labels, drop_labels=drop_labels, clips=clips, n=n,
        seed=seed, workers=workers, strict=strict,
    )  # fmt: skip
    print(describe(open_shards(out)))


def data_info(shards: Positional[Path]) -> None:
    """What a folder of shards holds."""
    from jfreq.data.shards.describe import describe
    from jfreq.data.shards.reader import open_shards

    print(describe(open_shards(shards)))


def data_peek(shards: Positional[Path], n: Count = 4) -> None:
    """The first rows of a folder of shards."""
    from jfreq.data.shards.describe import peek
    from jfreq.data.shards.reader import open_shards

    print(peek(open_shards(shards), n))
