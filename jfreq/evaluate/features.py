"""Frozen features of the rows of shards, from an encoder or from the spectrogram."""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jfreq import distributed, param_paths
from jfreq.config import close_match
from jfreq.encoder.encoder import by_time
from jfreq.files import local_path, write_atomically
from jfreq.kernels import cpu
from jfreq.method import Method
from jfreq.ops import dft, frames, scale
from jfreq.types import Array, Batch, Features, InputError, PyTree

Pool = Literal["clip", "mean", "freq", "mean_std"]
"""How tokens become one vector: ``clip`` the clip vector of the method; ``mean`` over valid tokens;
``freq`` the mean over time of each frequency row, side by side; ``mean_std`` mean and standard
deviation over valid tokens."""
NOT_SIGNALS = ("label", "id", "_mask")


class Extracted(NamedTuple):
    """Features of rows."""

    x: np.ndarray
    """``[n d]`` float32."""
    label: np.ndarray
    """``[n]`` int32, or ``[n k]`` float32."""
    fold: np.ndarray
    """``[n]``."""
    id: np.ndarray
    """``[n]`` row numbers."""


def extract(
    method: Method,
    params: PyTree,
    shards: Any,
    rows: np.ndarray,
    *,
    batch: int = 32,
    pool: Pool = "clip",
    layer: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Extracted:
    """Encodes rows of shards with a program that is compiled once.

    Args:
      method: a method whose ``encode`` takes the rows.
      params: its parameters.
      shards: a :class:`jfreq.data.shards.reader.Shards`.
      rows: row numbers ``[n]``.
      batch: rows that are encoded at a time.
      pool: how the tokens of a row become one vector.
      layer: the block (-1 is the last) whose tokens replace the output of the encoder; ``clip``
        is then their mean.
      progress: called with the number of rows that are done and that there are.

    Raises:
      InputError: for no rows, an unknown pool, a layer that the encoder does not return, and
        features that are not finite.
    """
    if pool not in get_args(Pool):
        raise InputError(
            f"pool: unknown {pool!r}{close_match(pool, get_args(Pool))}; choose one of "
            f"{', '.join(get_args(Pool))}"
        )
    params = jax.device_put(params)
    return _over(
        shards, rows, lambda inputs: _vectors(method, pool, layer, params, inputs), batch, progress
    )


def extract_layers(
    method: Method,
    params: PyTree,
    shards: Any,
    rows: np.ndarray,
    *,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[Extracted]:
    """Features of all depths, with one pass of the encoder; arguments as :func:`extract`.

    Returns:
      The clip vector, then the mean over valid tokens after each block. An encoder that returns no
      layers gives the clip vector only.

    Raises:
      InputError: as :func:`extract`.
    """
    widths: list[int] = []

    def views(params: PyTree, inputs: Batch) -> Array:
        features = method.encode(params, inputs)
        depth = 0 if features.layers is None else len(features.layers)
        parts = [features.clip, *(pooled(features, "mean", i) for i in range(depth))]
        widths[:] = [part.shape[-1] for part in parts]
        return jnp.concatenate(parts, axis=-1)

    encode = jax.jit(views, compiler_options=cpu.compiler_options())
    params = jax.device_put(params)
    joined = _over(shards, rows, lambda inputs: encode(params, inputs), batch, progress)
    parts = np.split(joined.x, np.cumsum(widths)[:-1], axis=1)
    return [joined._replace(x=part) for part in parts]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _vectors(method: Method, pool: Pool, layer: int | None, params: PyTree, inputs: Batch) -> Array:
    """``[b d]``; equal methods share one program, whatever their parameters."""
    return pooled(method.encode(params, inputs), pool, layer)


def spectrogram_statistics(
    method: Method,
    shards: Any,
    rows: np.ndarray,
    *,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Extracted:
    """The hand-crafted baseline: mean and standard deviation of the spectrogram over time.

    They are taken for each bin and channel, over valid frames. For a method without a front end
    the spectrogram is a log power spectrogram. Arguments and errors are those of :func:`extract`.
    """
    return _over(shards, rows, jax.jit(lambda inputs: _statistics(method, inputs)), batch, progress)


def _over(
    shards: Any,
    rows: np.ndarray,
    compute: Callable[[Batch], Array],
    batch: int,
    progress: Callable[[int, int], None] | None,
) -> Extracted:
    """Runs ``compute`` over the rows in order and drops the padding of the last batch.

    Several processes divide the rows among them; each returns all results.
    """
    rows = np.asarray(rows, np.int64)
    if rows.size == 0:
        raise InputError("there are no rows to encode; check the split and the folds")
    if batch < 1:
        raise InputError(f"batch: must be 1 or more, got {batch}")
    xs, labels, done = [], [], 0
    local = distributed.local_rows(rows)
    for inputs, label, mask in _batches(shards, local, batch):
        x = np.asarray(compute(inputs), np.float32)[mask]
        xs.append(x)
        labels.append(label[mask])
        done += len(x)
        if progress is not None:
            progress(done, len(local))
    gathered = distributed.gather_rows(
        {"x": np.concatenate(xs), "label": np.concatenate(labels)}, len(rows)
    )
    x = gathered["x"]
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise InputError(
            f"the features of row {rows[bad][0]} and {bad.sum() - 1} more are not finite; look "
            "for NaN in these rows, or take an earlier checkpoint if training diverged"
        )
    return Extracted(x, gathered["label"], shards.column("fold")[rows], rows)


def _batches(
    shards: Any, rows: np.ndarray, batch: int
) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
    """``(inputs, label [b ...], mask [b])``; the mask is False for padding."""
    from jfreq.data.loading.pipeline import eval_batches

    for item in eval_batches(shards, rows, batch=batch):
        inputs: Batch = {
            name: jnp.asarray(value) for name, value in item.items() if name not in NOT_SIGNALS
        }
        yield inputs, np.asarray(item["label"]), np.asarray(item["_mask"]) > 0


def pooled(features: Features, pool: Pool, layer: int | None = None) -> Array:
    """Pools the features of a batch into one vector ``[b d]`` for each row.

    Raises:
      InputError: where the encoder does not return ``layer``.
    """
    tokens = features.tokens
    if layer is not None:
        layers = features.layers
        if layers is None or not -len(layers) <= layer < len(layers):
            known = "none" if layers is None else f"0 to {len(layers) - 1}"
            raise InputError(f"layer: the encoder returns no block {layer}; it returns {known}")
        tokens = layers[layer]
        pool = "mean" if pool == "clip" else pool
    if pool == "clip":
        return features.clip
    tokens, valid = by_time(tokens, features.grid), by_time(features.valid, features.grid)
    weight = valid[..., None].astype(jnp.float32)
    if pool == "freq":
        rows = (tokens * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
        return rows.reshape(rows.shape[0], -1)
    mean, std = _moments(tokens, weight, axes=(1, 2))
    return mean if pool == "mean" else jnp.concatenate([mean, std], axis=-1)


def _moments(x: Array, weight: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Weighted mean and population standard deviation over ``axes``."""
    count = jnp.maximum(weight.sum(axes, keepdims=True), 1)
    mean = (x * weight).sum(axes, keepdims=True) / count
    variance = ((x - mean) ** 2 * weight).sum(axes, keepdims=True) / count
    return mean.squeeze(axes), jnp.sqrt(variance).squeeze(axes)


def _statistics(method: Method, inputs: Batch) -> Array:
    """``[b d]``: mean and standard deviation over valid frames."""
    out = method.with_spectrogram(inputs)
    if "spectrogram" not in out:
        signals = [x for name, x in sorted(inputs.items()) if name != "length"]
        return jnp.concatenate([_spectrum_statistics(x) for x in signals], axis=-1)
    return _frame_statistics(out["spectrogram"], out["valid_frames"])


def _frame_statistics(spec: Array, valid: Array) -> Array:
    """``[b t f c]`` to ``[b 2fc]``, over the frames that are ``valid`` ``[b t]``."""
    weight = valid[:, :, None, None].astype(jnp.float32)
    mean, std = _moments(spec, weight, axes=(1,))
    return jnp.concatenate([m.reshape(m.shape[0], -1) for m in (mean, std)], axis=-1)


def _spectrum_statistics(x: Array) -> Array:
    """``[b t c]`` to the statistics of log power spectra of about 15 half-overlapping frames."""
    n_fft = 2 ** max(2, int(np.log2(max(4, x.shape[1] // 8))))
    flat = jnp.moveaxis(scale.pcm_to_float(x), 1, -1)
    flat = jnp.pad(flat, ((0, 0), (0, 0), (0, max(0, n_fft - x.shape[1]))))
    cut = frames.frame(flat, frame_length=n_fft, hop_length=n_fft // 2)
    taps = frames.window("hann", n_fft, periodic=True).astype(np.float32)
    power = dft.power_spectrum(cut * taps[None, None, None], n_fft=n_fft)
    spec = jnp.moveaxis(jnp.log(power + 1e-6), 1, -1)
    return _frame_statistics(spec, jnp.ones(spec.shape[:2], bool))


def params_hash(params: PyTree) -> str:
    """sha256 over names, shapes and values."""
    digest = hashlib.sha256()
    for name, leaf in sorted(param_paths.flatten(params).items()):
        leaf = np.asarray(leaf)
        digest.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def cached(folder: str | Path, key: Any, compute: Callable[[], Extracted]) -> Extracted:
    """``compute()``, or the result of an earlier call with the same ``key``.

    A damaged file is computed again. Several processes compute together and store nothing.

    Args:
      folder: where results lie as ``.npz``.
      key: JSON values that name everything the features depend on, see :func:`feature_key`.
      compute: called where there is no stored result.
    """
    if jax.process_count() > 1:
        return compute()
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = local_path(folder, "folder") / f"{name}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                return Extracted(**{field: file[field] for field in Extracted._fields})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # Computed again and replaced.
    features = compute()
    write_atomically(path, lambda file: np.savez(file, **features._asdict()))
    return features


def feature_key(
    config: Any, params: PyTree, shards: Any, rows: np.ndarray, **options: Any
) -> dict[str, Any]:
    """The key of :func:`cached`: all that features depend on, parameters and rows as hashes."""
    rows = np.asarray(rows, np.int64)
    return {
        "config": config,
        "params": params_hash(params),
        "manifest": shards.manifest_hash,
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        **options,
    }
