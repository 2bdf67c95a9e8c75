"""What a classifier does to its training batches: mixed, rolled and masked signals, dropped
tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax

from jfreq import augment, masks
from jfreq.method import Method, Streams, decided
from jfreq.ops.scale import pcm_to_float
from jfreq.types import Array, Batch, InputError

if TYPE_CHECKING:
    from jfreq.methods.supervised import Head


def augmented(backbone: Method, head: Head, batch: Batch, rngs: Streams) -> tuple[Batch, Array]:
    """The batch as training sees it, and its (soft) labels ``[b classes]``.

    In this order, where ``head`` asks for it: waveforms are rolled, amplified and mixed; bands of
    the log-mel spectrogram are masked; noise is added and frames are rolled; spectrograms are
    mixed; bands of the encoder's input are masked; tokens are dropped; labels are smoothed.

    Raises:
      InputError: for a change of one waveform where there are several, and for mixed spectrograms
        where there are none.
    """
    labels = hot_labels(head, batch["label"])
    batch, labels = _waveforms(head, batch, labels, rngs)
    batch = backbone.with_spectrogram(batch)
    if "spectrogram" in batch:
        batch, labels = _spectrograms(backbone, head, batch, labels, rngs)
    elif head.mixup and head.mixup_of == "spectrogram":
        raise InputError("head.mixup_of: this encoder reads no spectrogram; choose waveform")
    if max(head.token_drop):
        grid = decided(backbone.token_grid, "head.token_drop")
        kept = _kept(grid.time, head.token_drop[0]), _kept(grid.freq, head.token_drop[1])
        if kept != (grid.time, grid.freq):
            mask = masks.axes(rngs("token_drop"), labels.shape[0], grid, kept)
            batch = {**batch, "kept_tokens": mask.visible}
    if head.label_smoothing:
        even = labels.mean(axis=-1, keepdims=True)  # 0 for a row without a label
        labels = (1 - head.label_smoothing) * labels + head.label_smoothing * even
    return batch, labels


def hot_labels(head: Head, labels: Array) -> Array:
    """Labels ``[b]`` or ``[b classes]`` as ``[b classes]``; all zero for a row without one."""
    if labels.ndim > 1:
        return labels
    return jax.nn.one_hot(labels, decided(head.classes, "head.classes"))


def _kept(lines: int, dropped: float) -> int:
    """How many columns or rows stay, rounded down as released."""
    return max(1, int(lines * (1 - dropped)))


def _waveforms(head: Head, batch: Batch, labels: Array, rngs: Streams) -> tuple[Batch, Array]:
    """Rolled, amplified and mixed waveforms."""
    mixes = head.mixup > 0 and head.mixup_of == "waveform"
    asked = {"roll": head.roll, "gain": head.gain, "mixup": mixes}
    fields = [name for name, used in asked.items() if used]
    if not fields:
        return batch, labels
    names = [k for k, v in batch.items() if v.ndim == 3 and k != "spectrogram"]
    if len(names) != 1:
        what = "mixes" if fields == ["mixup"] else "changes"
        raise InputError(
            f"head.{fields[0]}: {what} one signal, the batch holds {names}; turn it off"
        )
    wave = pcm_to_float(batch[names[0]])
    if head.roll:
        wave = augment.roll_signal(rngs("roll_signal"), wave, batch.get("length"))
    if head.gain:
        wave = augment.change_gain(rngs("gain"), wave)
    if mixes:
        wave, labels = _mixed(head, wave, labels, rngs)
    return with_waveform(batch, names[0], wave), labels


def with_waveform(batch: Batch, name: str, wave: Array) -> Batch:
    """The batch with another waveform of the signal ``name``; the spectrogram of the one before is
    left out."""
    return {k: v for k, v in batch.items() if k != "spectrogram"} | {name: wave}


def _spectrograms(
    backbone: Method, head: Head, batch: Batch, labels: Array, rngs: Streams
) -> tuple[Batch, Array]:
    """Masked, noisy and mixed spectrograms."""
    spec = batch["spectrogram"]

    def masked(spec: Array, fill: float) -> Array:
        time, freq = head.spec_augment
        return augment.spec_augment(rngs("spec_augment"), spec, time=time, freq=freq, fill=fill)

    masks_bands = max(head.spec_augment) > 0
    if masks_bands and head.spec_augment_at == "log_mel":
        spec = masked(spec, backbone.spectrogram_fill)
    if head.noise:
        noisy = augment.add_noise(rngs("noise"), spec)
        spec = augment.roll_time(rngs("roll"), noisy, shift=10)
    if head.mixup and head.mixup_of == "spectrogram":
        spec, labels = _mixed(head, spec, labels, rngs, centred=False)
    if masks_bands and head.spec_augment_at == "input":
        spec = masked(spec, 0.0)
    return {**batch, "spectrogram": spec}, labels


def _mixed(
    head: Head, x: Array, labels: Array, rngs: Streams, *, centred: bool = True
) -> tuple[Array, Array]:
    """Rows of ``x`` mixed with others as ``head`` asks, and their labels with them."""
    return augment.mixup(
        rngs("mixup"),
        x,
        labels,
        prob=head.mixup,
        alpha=head.mixup_alpha,
        shared=head.mixup_shared,
        centred=centred,
    )
