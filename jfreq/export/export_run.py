"""Exports the encoder of a run: the bundle, and other formats beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jfreq.config import close_match
from jfreq.export import saved_model, stablehlo, tflite
from jfreq.export.bundle import check_free, load_trained, save_bundle
from jfreq.export.clips import clip_windows
from jfreq.export.onnx import extra as onnx
from jfreq.export.portable import Adapter, Extra, adapt
from jfreq.method import encoder_params
from jfreq.types import InputError


def _huggingface(adapter: Adapter) -> Extra:
    from jfreq.export.huggingface import folder

    return folder.extra(adapter)


def _huggingface_twin(adapter: Adapter) -> Extra:
    from jfreq.export.huggingface import folder

    return folder.twin(adapter)


EXTRAS: dict[str, Callable[[Adapter], Extra]] = {
    "stablehlo": stablehlo.extra,
    "onnx": onnx.extra,
    "saved_model": saved_model.extra,
    "tflite": tflite.float32,
    "tflite_float16": tflite.float16,
    "tflite_int8": tflite.int8,
    "huggingface": _huggingface,
    "huggingface_twin": _huggingface_twin,
}
"""By name the formats that lie beside the bundle."""


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    note: str = "",
    formats: Sequence[str] = ("bundle",),
    clips: Sequence[str | Path] = (),
    step: int | None = None,
    say: Callable[[str], None] | None = None,
) -> Path | str:
    """Writes the frozen encoder of a run as a bundle.

    Parameters that ``encode`` never reads (decoders, prediction heads) are left out.

    Args:
      run: a run folder, or another bundle.
      out: the folder of the bundle; as ``run`` also a URL, s3:// or gs://.
      note: a sentence for the model card.
      formats: what the folder holds: ``bundle``, which is always written, and names of ``EXTRAS``.
      clips: recordings on whose windows every format is compared with the encoder, beside noise:
        what :func:`jfreq.encoder.embed_files.embed_files` reads.
      step: of a run, the checkpoint of this step; None: what the run ends in.
      say: is told in a line what a format does not keep or could not check.

    Returns:
      The folder of the bundle.

    Raises:
      InputError: for an unknown format, a folder that holds something else, clips that cannot be
        read, and a format that cannot hold this encoder, lacks a package, or whose outputs differ
        from those of the encoder.
    """
    known = ("bundle", *EXTRAS)
    for name in formats:
        if name not in known:
            raise InputError(
                f"format: unknown {name!r}{close_match(name, known)}; the formats are "
                f"{', '.join(known)}"
            )
    if {"huggingface", "huggingface_twin"} <= set(formats):
        raise InputError(
            "format: huggingface and huggingface_twin write the same files; take one of them"
        )
    # TensorFlow breaks the import of some builds of torch that comes after it.
    names = [name for name in dict.fromkeys(formats) if name != "bundle"]
    names.sort(key=lambda name: not name.startswith("huggingface"))
    if clips and not names:
        raise InputError(
            "clips: are what written programs are compared on; name a format beside the bundle, "
            "for instance --format onnx"
        )
    check_free(out)
    trained = load_trained(run, step=step)
    experiment, cfg = trained.experiment, trained.experiment.method
    params = encoder_params(cfg, trained.params)
    if trained.checkpoint:
        note = " ".join(filter(None, (note, f"Exported from {trained.checkpoint} of its run.")))
    windows = clip_windows(experiment, params, clips) if clips else ()
    adapter = adapt(experiment, params, windows)
    extras = [EXTRAS[name](adapter) for name in names]
    for line in (note for extra in extras for note in extra.notes):
        if say is not None:
            say(line)
    return save_bundle(
        out,
        experiment=experiment,
        params=params,
        note=note,
        files={name: blob for extra in extras for name, blob in extra.files.items()},
        card="".join(f"\n{extra.card}" for extra in extras),
    )
