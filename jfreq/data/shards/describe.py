"""What a set of shards holds, in words."""

from __future__ import annotations

import numpy as np

from jfreq.data.shards.reader import Shards


def describe(shards: Shards) -> str:
    """What a set holds, as lines of text."""
    info = shards.info
    seconds = len(shards) * info.signals[0].spec.seconds
    lines = [f"{info.name}: {len(shards)} rows, {seconds / 3600:.2f} h in windows ({info.source})"]
    for s in info.signals:
        mean, std = (" ".join(f"{v:.4g}" for v in values) for values in (s.mean, s.std))
        lines.append(
            f"  {s.name}: {s.samples} samples ({s.spec.seconds:g} s) x {s.channels}, "
            f"{s.rate:g} Hz, {s.dtype}, mean {mean}, std {std}"
        )
        if s.mix != "first":
            what = "the mean of all channels" if s.mix == "mean" else "all channels"
            lines.append(f"    {what} of a recording")
        if s.channel_names:
            lines.append(f"    channels: {', '.join(s.channel_names)}")
        if absent := int(np.sum(shards.column(f"{s.name}.count") == 0)):
            lines.append(f"    absent in {absent} of {len(shards)} rows, which hold zeros")
        if s.constant:
            which = ", ".join(s.channel_names[i] if s.channel_names else str(i) for i in s.constant)
            lines.append(f"    constant: channel {which}; standardising makes it 0")
    label = shards.column("label")
    counts = (
        label.sum(0) if info.multi_label else [np.sum(label == i) for i in range(len(info.labels))]
    )
    named = ", ".join(f"{name} {int(c)}" for name, c in zip(info.labels, counts))
    free = 0 if info.multi_label else int((label < 0).sum())
    lines.append(f"  labels: {named or 'none'}" + f", no label {free}" * bool(named and free))
    for name, values in (("folds", info.folds), ("splits", info.splits)):
        column = shards.column(name[:-1])
        lines.append(
            f"  {name}: {', '.join(f'{v} ({np.sum(column == v)})' for v in values) or 'none'}"
        )
    lines.append(
        f"  skipped: {info.skipped}, shards: {len(info.shards)}, manifest: "
        f"{shards.manifest_hash[:16]}"
    )
    return "\n".join(lines)


def peek(shards: Shards, n: int = 4) -> str:
    """The first ``n`` rows, a line each: where from, label, length and loudness."""
    lines = []
    for i in range(min(n, len(shards))):
        row, labels = shards[i], shards.info.labels
        hot = np.flatnonzero(row["label"]) if shards.info.multi_label else [int(row["label"])]
        names = ", ".join(labels[k] for k in hot if k >= 0) or "no label"
        levels = ", ".join(
            f"{s.name} rms {np.sqrt(np.mean(np.square(row[s.name] * np.float64(s.scale)))):.4g}"
            for s in shards.info.signals
        )
        where = shards.column("path")[i], shards.column("start")[i]
        lines.append(
            f"{i}: {where[0]} from {where[1]}, {names}, {row['length']} valid samples, {levels}"
        )
    return "\n".join(lines)
