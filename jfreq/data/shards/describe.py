"""What a set of shards holds, as text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jfreq.data.shards.metadata import SignalInfo
from jfreq.data.shards.reader import Shards


def describe(shards: Shards) -> str:
    """What a set holds, as lines of text: signals, labels, folds, splits, skipped rows, hash."""
    info = shards.info
    hours = len(shards) * info.signals[0].spec.seconds / 3600
    lines = [f"{info.name}: {len(shards)} rows, {hours:.2f} h in windows ({info.source})"]
    for signal in info.signals:
        lines += _about_signal(signal, shards)
    lines.append(f"  labels: {_label_counts(shards)}")
    for name, values in (("folds", info.folds), ("splits", info.splits)):
        column = shards.column(name[:-1])
        counts = ", ".join(f"{value} ({np.sum(column == value)})" for value in values)
        lines.append(f"  {name}: {counts or 'none'}")
    lines.append(
        f"  skipped: {info.skipped}, shards: {len(info.shards)}, manifest: "
        f"{shards.manifest_hash[:16]}"
    )
    return "\n".join(lines)


def _about_signal(s: SignalInfo, shards: Shards) -> Iterator[str]:
    mean, std = (" ".join(f"{v:.4g}" for v in values) for values in (s.mean, s.std))
    yield (
        f"  {s.name}: {s.samples} samples ({s.spec.seconds:g} s) x {s.channels}, "
        f"{s.rate:g} Hz, {s.dtype}{' as FLAC' * (s.encoding == 'flac')}, mean {mean}, std {std}"
    )
    if s.mix != "first":
        what = "the mean of all channels" if s.mix == "mean" else "all channels"
        yield f"    {what} of a recording"
    if s.channel_names:
        yield f"    channels: {', '.join(s.channel_names)}"
    if absent := int(np.sum(shards.column(f"{s.name}.count") == 0)):
        yield f"    absent in {absent} of {len(shards)} rows, which hold zeros"
    if s.constant:
        names = ", ".join(s.channel_names[i] if s.channel_names else str(i) for i in s.constant)
        yield f"    constant: channel {names}; standardising makes it 0"


def _label_counts(shards: Shards) -> str:
    """Rows of every class and rows without a label; ``none`` where there are no classes."""
    label, names, multi = shards.column("label"), shards.info.labels, shards.info.multi_label
    counts = label.sum(0) if multi else np.bincount(label[label >= 0], minlength=len(names))
    parts = [f"{name} {int(count)}" for name, count in zip(names, counts)]
    if parts and not multi and (unlabelled := np.count_nonzero(label < 0)):
        parts.append(f"no label {unlabelled}")
    return ", ".join(parts) or "none"


def peek(shards: Shards, n: int = 4) -> str:
    """A line for each of the first ``n`` rows: path, start, labels, valid samples and RMS."""
    lines = []
    for i in range(min(n, len(shards))):
        row, labels = shards[i], shards.info.labels
        classes = np.flatnonzero(row["label"]) if shards.info.multi_label else [int(row["label"])]
        names = ", ".join(labels[k] for k in classes if k >= 0) or "no label"
        rms = ", ".join(
            f"{s.name} rms {np.sqrt(np.mean(np.square(row[s.name] * np.float64(s.scale)))):.4g}"
            for s in shards.info.signals
        )
        path, start = shards.column("path")[i], shards.column("start")[i]
        lines.append(f"{i}: {path} from {start}, {names}, {row['length']} valid samples, {rms}")
    return "\n".join(lines)
