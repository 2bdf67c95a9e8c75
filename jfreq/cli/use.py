"""``jfreq probe``, ``export``, ``embed`` and ``predict``: commands about a trained encoder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from jfreq.cli.common import bars, found_run, tell
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
    out: Path | None = None,
) -> None:
    """Linear and kNN probes of a frozen encoder over the folds of the data.

    Writes results.json; with --fractions instead fractions.json and the curves fractions.svg.

    Args:
        trained: run folder or bundle.
        data: labelled shards; several folders of the same classes are one set.
        kinds: which probes.
        pool: clip vector: the method's own, means per frequency row, or mean and standard
            deviation.
        layer: state after this block (negative from the end) instead of the final norm.
        seeds: of the untrained encoder.
        baselines: add the untrained encoder and log-mel statistics to the table.
        leave_one_subject_out: folds are subjects.
        make_folds: divide the data into this many folds, in place of their own.
        fold_by: what such a fold keeps whole; by default subjects where enough are known, else
            recordings.
        folds: test on these only, for instance the one that pre-training left out; "test" for
            the set's own split.
        train_split: split whose labels train the probe, in place of folds and of "train".
        test_split: split to test on, in place of folds and of "test".
        fractions: fractions of the training rows' labels to probe with, for instance 0.01 0.1 1.
        repeats: how often each fraction is sampled.
        at_least_one: keep a row of every class, however small the fraction; else it is refused.
        out: folder of the results; by default that of the run.
    """
    from jfreq import distributed
    from jfreq.data.fold_assignment import refolded
    from jfreq.data.prepare import messages
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate import plot, probe_protocol
    from jfreq.evaluate.verdict import verdict
    from jfreq.export.bundle import load_trained

    distributed.start()
    trained = found_run(trained)
    found = load_trained(trained)
    if fold_by is not None and make_folds is None:
        raise InputError("fold-by: says how folds are made; say how many with --make-folds")
    if make_folds and leave_one_subject_out:
        raise InputError("make-folds: is no use with --leave-one-subject-out; give one of them")
    shards = open_shards(data)
    if make_folds is not None:
        shards, notes = refolded(shards, make_folds, fold_by)
        messages.say(notes if distributed.is_chief() else ())
    report = probe_protocol.probe(
        found,
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
        progress=bars(),
    )
    if not distributed.is_chief():
        return
    print(report.to_markdown())
    print("\n".join(verdict(report)))
    folder = out or trained
    report.save(folder / ("fractions.json" if fractions else "results.json"))
    if fractions:
        plot.curves({found.experiment.name: report}, folder / "fractions.svg")


def export(
    trained: Positional[Path],
    out: Path,
    format: tuple[Literal["bundle", "stablehlo"], ...] = ("bundle",),
    note: str = "",
) -> None:
    """Writes the frozen encoder of a run as a bundle, and as a StableHLO program beside it.

    Args:
        trained: run folder, or that of `jfreq finetune` where it holds a single fold.
        out: folder of the bundle.
        format: what lies in it; the bundle always does.
        note: a sentence for the model card.
    """
    from jfreq.export.export_run import export_run

    print(export_run(found_run(trained), out, note=note, formats=format))


def embed(
    encoder: Positional[Path],
    inputs: Positional[tuple[Path, ...]],
    /,
    out: Path,
    rate: Hertz | None = None,
    modalities: tuple[str, ...] = (),
    frames: bool = True,
    strict: bool = False,
) -> None:
    """Embeds recordings of any length and rate into one .npz.

    Args:
        encoder: bundle or run folder.
        inputs: sound files, recordings of sensors (.npz, .csv), folders of them, and folders of
            shards; see docs/export.md.
        out: the .npz.
        rate: Hz of recordings of sensors that state none.
        modalities: names for the channels of a single array, for instance acc:0-2 gyro:3-5.
        frames: also write the vectors over time, and not only one for each recording.
        strict: stop at the first recording that cannot be used, instead of skipping it.
    """
    from jfreq.data.options import parse_modalities
    from jfreq.encoder.embed_files import embed_files
    from jfreq.encoder.encoder import load_encoder

    written = embed_files(
        load_encoder(found_run(encoder)),
        inputs,
        out,
        rate=rate,
        modalities=parse_modalities(modalities) or None,
        frames=frames,
        strict=strict,
        progress=functools.partial(bars(), "recordings"),
        say=tell,
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
    strict: bool = False,
) -> None:
    """Predicts the class of each recording, with its probability, as a CSV.

    Args:
        encoder: bundle or run folder of a fine-tuned or supervised model.
        inputs: sound files, recordings of sensors (.npz, .csv), folders of them, and folders of
            shards; see docs/export.md.
        out: the .csv; by default the table goes to standard output.
        windows: a line for each window of a recording instead of one for all of it.
        top: name so many classes, the best first, instead of the best one.
        threshold: of models with several labels a recording: name every class from this
            probability up, and at least the best.
        rate: Hz of recordings of sensors that state none.
        modalities: names for the channels of a single array, for instance acc:0-2 gyro:3-5.
        strict: stop at the first recording that cannot be used, instead of skipping it.
    """
    from jfreq.data.options import parse_modalities
    from jfreq.encoder.encoder import load_encoder
    from jfreq.encoder.predict_files import Choice, predict_files

    run = found_run(encoder)
    model = load_encoder(run)
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
        progress=functools.partial(bars(), "recordings") if target else None,
        say=tell,
    )
    if target:
        print(written)
    elif written.skipped:
        tell(f"{written.recordings} recordings, {written.skipped} skipped")
