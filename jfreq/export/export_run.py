"""Exports the encoder of a run: the bundle, and other formats beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jfreq.config import close_match
from jfreq.export import stablehlo
from jfreq.export.bundle import check_free, load_trained, save_bundle
from jfreq.export.portable import Adapter, Extra, adapt
from jfreq.files import local_path
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
    "huggingface": _huggingface,
    "huggingface-twin": _huggingface_twin,
}
"""By name the formats that lie beside the bundle."""


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    note: str = "",
    formats: Sequence[str] = ("bundle",),
    say: Callable[[str], None] | None = None,
) -> Path:
    """Writes the frozen encoder of a run as a bundle.

    Parameters that ``encode`` never reads (decoders, prediction heads) are left out.

    Args:
      run: a run folder, or another bundle.
      out: the folder of the bundle.
      note: a sentence for the model card.
      formats: what the folder holds: ``bundle``, which is always written, and ``stablehlo``.
      say: is told in a line what a format does not keep or could not check.

    Returns:
      The folder of the bundle.

    Raises:
      InputError: for an unknown format, a folder that holds something else, and a program whose
        outputs differ from those of the encoder.
    """
    known = ("bundle", *EXTRAS)
    for name in formats:
        if name not in known:
            raise InputError(
                f"format: unknown {name!r}{close_match(name, known)}; the formats are "
                f"{', '.join(known)}"
            )
    if {"huggingface", "huggingface-twin"} <= set(formats):
        raise InputError(
            "format: huggingface and huggingface-twin write the same files; take one of them"
        )
    check_free(local_path(out, "out"))
    experiment, params = load_trained(run)
    cfg = experiment.method
    params = encoder_params(cfg, params)
    extras = [EXTRAS[name](adapt(experiment, params)) for name in formats if name != "bundle"]
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
