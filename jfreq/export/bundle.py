"""The bundle: a folder with a trained encoder, ``config.json`` + ``model.safetensors`` + a card.

The form to archive. It is plain JSON and safetensors; nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jfreq
from jfreq import config_json, param_paths, staging
from jfreq.buckets import Bucket, url_of
from jfreq.config import Experiment, Saved
from jfreq.data.sources.folders import why_no_file
from jfreq.export.bundle_checks import (
    check_finite,
    check_weights,
    read_sealed,
    sealed,
)
from jfreq.files import draft_of, local_path, sha256_of, write_atomically
from jfreq.method import Method, encode, window_spec
from jfreq.ranges import first_line, shortlist
from jfreq.train.state import Trained
from jfreq.types import Features, InputError, PyTree, SignalSpec

FORMAT = 1
"""To be increased when an older jfreq can no longer read what this one writes."""
CHECKPOINTS = "checkpoints"
"""A folder that every run has and no bundle has."""
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
MEMBERS = (
    CONFIG,
    WEIGHTS,
    CARD,
    "encoder.stablehlo",
    "stablehlo.json",
    "encoder.onnx",
    "encoder.tflite",
    "encoder_float16.tflite",
    "encoder_int8.tflite",
    "saved_model",
    "huggingface",
)
"""The files and folders that the folder of a bundle may hold."""


def save_bundle(
    path: str | Path,
    *,
    experiment: Experiment,
    params: PyTree,
    note: str = "",
    files: Mapping[str, bytes] | None = None,
    card: str = "",
) -> Path | str:
    """Writes a bundle folder; readers see all of it or nothing.

    Args:
      path: the folder, also a URL. A bundle that is already there is replaced.
      experiment: what trained the encoder, bound to its data.
      params: nested dicts of arrays, stored bit for bit.
      note: a sentence for the model card.
      files: more files, by their paths in the folder.
      card: Markdown that ends the model card.

    Returns:
      The folder.

    Raises:
      InputError: where ``path`` holds anything but a bundle, or ``params`` anything but arrays in
        nested dicts whose names are free of ``/``.
    """
    check_free(path)
    if url := url_of(path):
        return _upload_bundle(url, experiment, params, note, files, card)
    path = local_path(path, "out")
    draft = draft_of(path)
    old = draft_of(path.with_name(f"{path.name}.old"))
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _write_files(draft, experiment, params, note, card)
        for name, blob in (files or {}).items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(draft / name, lambda file, blob=blob: file.write(blob))
        _swap(draft, path, old)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return path


def _upload_bundle(url: str, experiment: Experiment, params: PyTree, *more: Any) -> str:
    """The config first, which says what the folder is and has the checksum of the weights; these
    last. A bundle of which only a part is there does not load."""
    note, files, card = more
    bucket = Bucket(url, "out")
    with staging.temporary() as home:
        folder = home / "bundle"
        save_bundle(folder, experiment=experiment, params=params, note=note, files=files, card=card)
        names = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        stale = set(bucket.sizes()) - set(names)
        for part in ({CONFIG}, set(names) - {CONFIG, WEIGHTS}, {WEIGHTS}):
            bucket.upload({name: names[name] for name in part})
        bucket.delete(stale)
    return url


def _swap(draft: Path, path: Path, old: Path) -> None:
    """Puts ``draft`` in the place of ``path``, and what was there back if that fails."""
    if path.exists():
        path.rename(old)
    try:
        draft.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise


def load_bundle(path: str | Path) -> Trained:
    """Reads what :func:`save_bundle` wrote; nothing is compiled.

    Returns:
      The experiment and its parameters as numpy arrays.

    Raises:
      InputError: for a missing folder or file, a folder that is not a bundle, a newer format, files
        that are truncated or altered, and weights that do not fit the settings or are not finite.
    """
    with staging.opened(path, "encoder") as folder:
        return _load_bundle(folder)


def _load_bundle(path: Path) -> Trained:
    header = _open(path)
    from jfreq.methods import experiment_from_dict

    config = path / CONFIG
    writer = header.get("jfreq", "another version")
    advice = (
        f"; it was written by jfreq {writer}, whose settings are not those of this version "
        f"({jfreq.__version__}): read the bundle with the version that wrote it, or train and "
        "export the encoder again with this one"
    )
    try:
        experiment = experiment_from_dict(header["experiment"], str(config), advice)
    except RecursionError:
        raise InputError(f"{config}: nested too deeply; export the bundle again") from None
    flat = _read_flat(path / WEIGHTS, header["sha256"])
    check_weights(experiment, flat, path / WEIGHTS)
    return Trained(experiment, param_paths.unflatten(flat))


def read_weights(path: str | Path) -> dict[str, Any]:
    """The parameters of a bundle by path; only checksums are verified, not the settings."""
    with staging.opened(path, "encoder") as folder:
        return _read_flat(folder / WEIGHTS, _open(folder)["sha256"])


def _open(path: Path) -> dict[str, Any]:
    """The header of a bundle, checked."""
    advice = "give the folder of a run, or one that `jfreq export` wrote"
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "no such folder"
        raise InputError(f"{path}: {what}; {advice}")
    if why := why_no_file(path / CONFIG):
        why = f"it has no {CONFIG}" if why == "is not on disk" else f"{CONFIG} {why}"
        raise InputError(f"{path}: is not a bundle, {why}; {advice}")
    header = read_sealed(path / CONFIG, "the config of a bundle", FORMAT)
    if not isinstance(header.get("sha256"), str) or "experiment" not in header:
        raise InputError(
            f"{path / CONFIG}: is not the config of a bundle (sha256 or experiment is missing); "
            "export the encoder again"
        )
    return header


def load_trained(path: str | Path, what: Saved = "params", step: int | None = None) -> Trained:
    """Loads a bundle, or a checkpoint of a run.

    Args:
      path: a bundle, the run folder of ``jfreq train``, or a folder of ``jfreq finetune`` that
        holds a single run; also a URL, s3:// or gs://.
      what: of a run, "last" returns the parameters after its last update, also where it ends in an
        average, and "target" the training target (an EMA teacher) in place of parameters.
      step: of a run, the checkpoint of this step; None: what the run ends in.

    Returns:
      The experiment and its parameters as numpy arrays.

    Raises:
      InputError: as :func:`load_bundle` and :func:`trained_folder`, for parameters that are not
        finite, and for anything else of a bundle, which holds parameters only.
    """
    with staging.opened(path, "encoder") as folder:
        return _load_trained(trained_folder(folder), what, step)


def _load_trained(path: Path, what: Saved, step: int | None) -> Trained:
    if (path / CHECKPOINTS).is_dir():
        from jfreq.train.checkpoint import load_run

        trained = load_run(path, step=step, what=what)
        check_finite(param_paths.flatten(trained.params), path / CHECKPOINTS)
        return trained
    if what != "params" and is_bundle(path):
        raise InputError(f"{path}: a bundle has no {what}; give the folder of its run instead")
    if step is not None and is_bundle(path):
        raise InputError(
            f"{path}: a bundle has no step {step}, but one set of weights; give the folder of its "
            "run instead"
        )
    return load_bundle(path)


def trained_folder(path: str | Path) -> Path:
    """``path``, or the only run in it, at most three folders down (``fold1``, ``0.1/0/fold1``).

    Raises:
      InputError: where there are several runs; it names them.
    """
    path = local_path(path, "encoder")
    if not path.is_dir() or (path / CONFIG).exists() or (path / CHECKPOINTS).exists():
        return path
    levels = (path.glob(f"{'*/' * depth}{CHECKPOINTS}") for depth in (1, 2, 3))
    runs = next((runs for level in levels if (runs := sorted(f.parent for f in level))), [path])
    if len(runs) == 1:
        return runs[0]
    names = [str(run.relative_to(path)) for run in runs]
    raise InputError(
        f"{path}: holds several runs, {shortlist(names, 5)}; choose one, for instance {runs[0]}"
    )


def is_bundle(path: str | Path) -> bool:
    """Whether the folder looks like a bundle, readable or not."""
    return (Path(path) / CONFIG).is_file() and (Path(path) / WEIGHTS).is_file()


def check_free(path: str | Path) -> None:
    """Raises ``InputError`` where ``path`` holds anything but a bundle, which would be lost.

    Folders of Hugging Face have files of the same names.
    """
    if url := url_of(path):
        bucket = Bucket(url, "out")
        names = {name.partition("/")[0] for name in bucket.sizes()}
        ours = not names or b'"jfreq"' in (bucket.read(CONFIG) or b"")
        _check_free(url, ours, names)
        return
    path = local_path(path, "out")
    occupied = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    ours = not occupied or (is_bundle(path) and b'"jfreq"' in (path / CONFIG).read_bytes())
    _check_free(path, ours, {p.name for p in path.iterdir()} if occupied and ours else set())


def _check_free(path: str | Path, ours: bool, names: set[str]) -> None:
    if not ours:
        raise InputError(f"{path}: exists and is not a bundle; choose another folder")
    other = sorted(names - set(MEMBERS))
    if other:
        raise InputError(
            f"{path}: also holds {', '.join(other[:3])}, which would be lost; move it away or "
            "choose another folder"
        )


def _write_files(
    folder: Path, experiment: Experiment, params: PyTree, note: str, more: str
) -> None:
    from safetensors.numpy import save

    # safetensors stores the buffer as it lies in memory: make it C-contiguous first.
    flat = {name: np.array(leaf, order="C") for name, leaf in param_paths.flatten(params).items()}
    if jax.tree.structure(param_paths.unflatten(flat)) != jax.tree.structure(params):
        raise InputError("params: must be nested dicts of arrays, with names that contain no /")
    weights = save(flat, metadata={"jfreq": jfreq.__version__})
    text = sealed(
        {
            "format": FORMAT,
            "jfreq": jfreq.__version__,
            "note": note,
            "sha256": hashlib.sha256(weights).hexdigest(),
            "experiment": config_json.to_dict(experiment),
        }
    )
    write_atomically(folder / WEIGHTS, lambda file: file.write(weights))
    write_atomically(folder / CONFIG, lambda file: file.write(text.encode()))
    card = model_card(experiment, params, note=note) + more
    write_atomically(folder / CARD, lambda file: file.write(card.encode()))


def _read_flat(path: Path, sha256: str) -> dict[str, Any]:
    """Arrays by path, once the checksum of the file is verified."""
    from safetensors.numpy import load_file

    if why := why_no_file(path):
        why = "is missing" if why == "is not on disk" else why
        raise InputError(f"{path}: {why}; the bundle is incomplete, export it again")
    advice = "copy or export it again"
    try:
        if sha256_of(path) != sha256:
            raise InputError(
                f"{path}: is truncated or altered (its checksum differs from {CONFIG}); {advice}"
            )
        return load_file(path)
    except InputError:
        raise
    except Exception as error:  # safetensors' own, and what numpy makes of odd dtypes
        raise InputError(f"{path}: cannot be read ({first_line(error)}); {advice}") from None


def encoder_shapes(method: Method, signals: Sequence[SignalSpec], params: PyTree) -> Features:
    """The shapes of what ``encode`` returns for one window; nothing is computed."""
    return encode.eval_shape(method, params, window_spec(signals))


def model_card(experiment: Experiment, params: PyTree, *, note: str = "") -> str:
    """The ``README.md`` of a bundle: what the encoder reads, returns, and how to load it."""
    cfg = experiment.method
    features = encoder_shapes(cfg, cfg.signals, params)
    grid, first = features.grid, cfg.signals[0]
    count = param_paths.count(params)
    ms = 1000 / first.rate
    signals = "\n".join(
        f"| `{s.name}` | {s.rate:g} Hz | {_channels(s)} | {s.samples} samples, {s.seconds:g} s |"
        for s in cfg.signals
    )
    training = _training_row(experiment)
    predict = "scores = encoder.predict(wave, rate)  # [b classes], named by encoder.labels\n"
    predict *= bool(cfg.labels)
    return f"""# {experiment.name}

A frozen jfreq encoder, method `{type(cfg).__name__}`.{f" {note}" if note else ""}

| signal | rate | channels | window |
|---|---|---|---|
{signals}

| | |
|---|---|
| tokens per window | {grid.time} in time x {grid.freq} in frequency, {grid.order} |
| frame step | {grid.hop * ms:g} ms, first centre at {grid.first * ms:g} ms |
| clip vector, frame vector | {features.clip.shape[-1]}, {features.tokens.shape[-1]} |
| parameters | {count:,} |
{_class_row(cfg.labels)}{training}| written by | jfreq {jfreq.__version__}, bundle format {FORMAT} |

```python
import jfreq

encoder = jfreq.load_encoder("path/to/this/folder")
embedding = encoder(wave, rate)  # .clip [b d], .frames [b t d], .valid [b], .times_ms [t]
{predict}```
"""


def _training_row(experiment: Experiment) -> str:
    """The row of the card on the training; empty where no data are named, as for an encoder that
    was trained elsewhere."""
    if not experiment.data.path:
        return ""
    data = ", ".join(f"`{Path(p).name}`" for p in experiment.data.path)
    row = f"up to {experiment.steps} steps of batch {experiment.batch} on {data}"
    if experiment.data.exclude_folds:
        row += f", folds {', '.join(map(str, experiment.data.exclude_folds))} never read"
    return f"| training | {row}, seed {experiment.seed} |\n"


def _channels(signal: SignalSpec) -> str:
    """The count of channels, and for sound which channels of a recording they are."""
    if signal.name != "audio":
        return f"{signal.channels}"
    what = {"first": "the first", "mean": "the mean of all", "keep": "all"}[signal.mix]
    return f"{signal.channels}, {what} of a recording"


def _class_row(labels: Sequence[str], most: int = 20) -> str:
    """The row of the card that names the classes; empty without classes."""
    if not labels:
        return ""
    names = ", ".join(label.replace("|", "\\|") for label in labels[:most])
    more = f" and {len(labels) - most} more, see `{CONFIG}`" if len(labels) > most else ""
    return f"| classes | {names}{more} |\n"
