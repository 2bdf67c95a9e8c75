"""``jfreq probe``, ``import``, ``export``, ``embed`` and ``predict``: commands about a trained
encoder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from jfreq.cli.parsing import print_note, progress_bars, run_or_bundle
from jfreq.ranges import (
    Count,
    Fraction,
    Hertz,
    InputError,
    Integer,
    Positive,
    Probability,
    Repeats,
    Seed,
)

Format = Literal[
    "bundle", "stablehlo", "onnx", "saved_model", "tflite", "tflite_float16", "tflite_int8",
    "huggingface", "huggingface_twin",
]  # fmt: skip


def probe(
    trained: Positional[Path],
    /,
    data: tuple[Path, ...],
    kinds: tuple[Literal["logistic", "ridge", "knn"], ...] = ("logistic", "ridge", "knn"),
    pool: Literal["clip", "freq", "mean_std"] = "clip",
    layer: Integer | None = None,
    seeds: tuple[Seed, ...] = (0,),
    baselines: bool = True,
    leave_one_subject_out: bool = False,
    make_folds: Count | None = None,
    fold_by: Literal["subject", "recording", "row"] | None = None,
    folds: tuple[str, ...] = (),
    train_split: str | None = None,
    test_split: str | None = None,
    fractions: tuple[Fraction, ...] = (),
    repeats: Repeats = 5,
    at_least_one: bool = False,
    step: Count | None = None,
    out: Path | None = None,
) -> None:
    """Fits linear and kNN probes on a frozen encoder, for each fold of the data.

    Writes results.json, or with --fractions fractions.json and the curves fractions.svg.

    Args:
        trained: run folder or bundle.
        data: labelled shards; several folders of the same classes are one set.
        kinds: the probes to fit.
        pool: how a clip becomes one vector: as the method defines it, by means per frequency row,
            or by mean and standard deviation.
        layer: use the state after this block (negative: from the end), not after the final norm.
        seeds: seeds of the untrained encoder.
        baselines: add the untrained encoder and log-mel statistics to the table.
        leave_one_subject_out: make every subject a fold.
        make_folds: divide the data into this many folds, in place of those of the set.
        fold_by: what these folds keep whole; by default subjects where enough are known, else
            recordings.
        folds: test on these only, for instance the one that pre-training left out; "test" for
            the split of the set.
        train_split: split whose labels train the probe, in place of folds and of "train".
        test_split: split to test on, in place of folds and of "test".
        fractions: fractions of the training rows' labels to probe with, for instance 0.01 0.1 1.
        repeats: how often each fraction is sampled.
        at_least_one: keep a row of every class where the fraction is too small for one; otherwise
            such a fraction is refused.
        step: of a run, probe the checkpoint of this step, not what the run ends in.
        out: folder of the results; by default that of the run.
    """
    from jfreq import distributed, staging
    from jfreq.data.fold_assignment import refolded
    from jfreq.data.prepare import messages
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate import plot, probe_protocol
    from jfreq.evaluate.verdict import verdict
    from jfreq.export.bundle import load_trained

    distributed.start()
    trained = run_or_bundle(trained)
    loaded = load_trained(trained, step=step)
    if fold_by is not None and make_folds is None:
        raise InputError("fold-by: needs --make-folds, the number of folds to make")
    if make_folds and leave_one_subject_out:
        raise InputError("make-folds: is no use with --leave-one-subject-out; give one of them")
    shards = open_shards(data)
    if make_folds is not None:
        shards, notes = refolded(shards, make_folds, fold_by)
        messages.say(notes if distributed.is_chief() else ())
    report = probe_protocol.probe(
        loaded,
        shards,
        kinds=kinds,
        pool=pool,
        layer=layer,
        seeds=seeds,
        with_baselines=baselines,
        leave_one_subject_out=leave_one_subject_out,
        only=folds,
        train_split=train_split,
        test_split=test_split,
        fractions=fractions,
        repeats=repeats,
        at_least_one=at_least_one,
        progress=progress_bars(),
    )
    if not distributed.is_chief():
        return
    print(report.to_markdown())
    print("\n".join(verdict(report)))
    with staging.opened(out or trained, "out", write=True) as folder:
        report.save(folder / ("fractions.json" if fractions else "results.json"))
        if fractions:
            plot.curves({loaded.experiment.name: report}, folder / "fractions.svg")


def import_(
    file: Positional[Path],
    /,
    out: Path,
    labels: Path | None = None,
    part: Literal["student", "teacher"] = "student",
    pool: Literal["mean", "special"] | None = None,
    heads: Count | None = None,
    frames: Count | None = None,
    stride: tuple[Count, Count] | None = None,
) -> None:
    """Writes the encoder in a released checkpoint of another project as a bundle.

    Reads AST, SSAST, EAT, Audio-MAE, BEATs and the AST of Hugging Face; docs/weights.md names the
    files.

    Args:
        file: file of tensors (.pth, .pt, .safetensors), or a folder of Hugging Face.
        out: folder of the bundle.
        labels: text file that names the classes of its classifier, one a line.
        part: of EAT: the trained network, or its moving average.
        pool: the clip vector: mean of the patches or special tokens; by default as released.
        heads: number of attention heads, where they are not 64 wide.
        frames: frames of a window, where the tensors leave it open.
        stride: frames and bins from patch to patch, likewise.
    """
    from jfreq.export.bundle import check_free, save_bundle
    from jfreq.files import read_text
    from jfreq.weights.importing import import_weights
    from jfreq.weights.release import Options, class_names

    check_free(out)
    names = () if labels is None else class_names(labels, read_text(labels, "a text"))
    options = Options(part, pool, heads, frames, stride, names)
    found = import_weights(file, options)
    for note in found.notes:
        print_note(note)
    note = f"Imported from `{file.name}`."
    print(save_bundle(out, experiment=found.experiment, params=found.params, note=note))


def export(
    trained: Positional[Path],
    out: Path,
    format: tuple[Format, ...] = ("bundle",),
    clips: tuple[Path, ...] = (),
    step: Count | None = None,
    note: str = "",
) -> None:
    """Writes the frozen encoder of a run as a bundle and, on request, in other formats.

    Args:
        trained: run folder, or the folder of `jfreq finetune` where it holds a single fold.
        out: folder of the bundle.
        format: what to write; the bundle is always written. docs/export.md compares them.
            huggingface: for transformers, as its AST or as a twin in torch; huggingface_twin:
            always as a twin.
        clips: recordings, or folders of them, on which the formats are compared with the encoder,
            beside noise.
        step: of a run, export the checkpoint of this step, not what the run ends in.
        note: a sentence for the model card.
    """
    from jfreq.export.export_run import export_run

    run = run_or_bundle(trained)
    print(export_run(run, out, note=note, formats=format, clips=clips, step=step, say=print_note))


def embed(
    encoder: Positional[Path],
    inputs: Positional[tuple[Path, ...]],
    /,
    out: Path,
    rate: Hertz | None = None,
    modalities: tuple[str, ...] = (),
    frames: bool = True,
    frame_ms: Positive | None = None,
    step: Count | None = None,
    strict: bool = False,
) -> None:
    """Embeds recordings of any length and rate into one .npz.

    Args:
        encoder: bundle or run folder.
        inputs: sound files, recordings of sensors (.npz, .csv), folders of them, and folders of
            shards; see docs/export.md.
        out: the .npz to write.
        rate: rate in Hz of sensor recordings that state none.
        modalities: names for the channels of a single array, for instance acc:0-2 gyro:3-5.
        frames: also write the vectors over time, beside one for each recording.
        frame_ms: longest time between two of these vectors, where that between tokens is too long.
        step: of a run, use the checkpoint of this step, not what the run ends in.
        strict: stop at the first recording that cannot be used, instead of skipping it.
    """
    from jfreq.data.options import parse_modalities
    from jfreq.encoder.embed_files import embed_files
    from jfreq.encoder.encoder import load_encoder

    written = embed_files(
        load_encoder(run_or_bundle(encoder), frame_ms, step),
        inputs,
        out,
        rate=rate,
        modalities=parse_modalities(modalities) or None,
        frames=frames,
        strict=strict,
        progress=functools.partial(progress_bars(), "recordings"),
        say=print_note,
    )
    print(written)


def predict(
    encoder: Positional[Path],
    inputs: Positional[tuple[Path, ...]],
    /,
    out: Path | None = None,
    windows: bool = False,
    top: Count | None = None,
    threshold: Probability = 0.5,
    rate: Positive | None = None,
    modalities: tuple[str, ...] = (),
    step: Count | None = None,
    strict: bool = False,
) -> None:
    """Predicts the class of each recording, with its probability, as a CSV.

    Args:
        encoder: bundle or run folder of a fine-tuned or supervised model.
        inputs: sound files, recordings of sensors (.npz, .csv), folders of them, and folders of
            shards; see docs/export.md.
        out: the .csv to write; by default the table is printed.
        windows: write a line for each window of a recording instead of one for all of it.
        top: name this many classes, the most probable first, instead of one.
        threshold: of models with several labels a recording, name every class from this
            probability up, and at least the most probable.
        rate: rate in Hz of sensor recordings that state none.
        modalities: names for the channels of a single array, for instance acc:0-2 gyro:3-5.
        step: of a run, use the checkpoint of this step, not what the run ends in.
        strict: stop at the first recording that cannot be used, instead of skipping it.
    """
    from jfreq.data.options import parse_modalities
    from jfreq.encoder.encoder import load_encoder
    from jfreq.encoder.predict_files import Choice, predict_files

    run = run_or_bundle(encoder)
    model = load_encoder(run, step=step)
    model.check_classes(str(run))
    target = None if out is None or str(out) == "-" else out
    written = predict_files(
        model,
        inputs,
        target,
        windows=windows,
        choice=Choice(top, threshold),
        rate=rate,
        modalities=parse_modalities(modalities) or None,
        strict=strict,
        progress=functools.partial(progress_bars(), "recordings") if target else None,
        say=print_note,
    )
    if target:
        print(written)
    elif written.skipped:
        print_note(f"{written.recordings} recordings, {written.skipped} skipped")
