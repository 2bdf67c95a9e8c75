"""FreqMAE: a frequency-aware masked autoencoder for several sensors (Kara et al., WWW 2024).

The released code has three flaws: its temporal shift shifts nothing, because windows are one frame
high; the energy in its loss has no effect on the gradient; and half of its frequency weights lie on
padding. The defaults follow the paper; :func:`as_released` follows the code.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jfreq import losses
from jfreq.config import check, replace
from jfreq.masks import window_masks
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.sensor_spectra import SpectraMethod, Spectrogram, SpectrogramSpec, any_of
from jfreq.nn.apply import apply
from jfreq.nn.swin import Children, Swin
from jfreq.nn.swin_autoencoder import ModalityDecoder, ModalityEncoder, SensorPredictor
from jfreq.ranges import Between, NonNegative, Size, checked
from jfreq.types import Array, Batch, Features, Mask, PyTree, Reconstruction, TokenGrid

Masked: TypeAlias = dict[str, Array]
"""``[b t f]`` bool by sensor, over all patches of its grid: which are masked."""


@checked
class FreqMAE(SpectraMethod):
    """A window transformer encodes every sensor to a vector. The masked patches of a sensor are
    reconstructed twice: from its vector, and from the vector that the other sensors predict."""

    encoder: Swin = Swin()
    """Windows larger than the spectrogram of a sensor shrink to it."""
    embedding: Size = 256
    """Width of the vector of a sensor."""
    fusion: Size = 512
    """Hidden width of the network that predicts a vector from those of the other sensors."""
    gamma: NonNegative = 1.0
    """Weight of the reconstruction from that prediction; 0 trains without fusion."""
    mask_ratio: Between = 0.75
    """Fraction that is masked of the attention windows, which are masked as a whole."""
    mask_kind: window_masks.Kind = "random"
    error: Literal["intended", "as_released", "mae"] = "intended"
    """``intended``: the signal-to-error ratio in dB, weighted by the energy of the clip;
    ``as_released``: the same with energy as a mere offset; ``mae``: the weighted squared error."""
    exponent: NonNegative = 0.3
    """Exponent (lambda) of the energy of a clip in its weight."""
    frequency_weight: bool = True
    """Weigh bins from 1 at 0 Hz down to 0 at the highest frequency; off: all alike."""
    padding: Literal["ignored", "as_released"] = "ignored"
    """``ignored``: padding is not masked, attended to, weighted or counted. ``as_released``: it is
    treated like signal."""
    children: Children = "in_place"
    """Where the decoder puts the four children of a cell: ``in_place``, or ``as_released``, next to
    each other in the list of tokens, which needs ``padding`` as released too."""
    embed: Literal["both", "unimodal", "fused"] = "both"
    """Clip vector: the vectors of the sensors (``unimodal``), the vectors that are predicted of
    them (``fused``), or both, as published."""

    def __post_init__(self):
        check(
            self.children == "in_place" or self.padding == "as_released",
            "method.children",
            "'as_released' moves tokens away from the places of padding; set method.padding to "
            "'as_released' too",
        )
        if len(self.signals) == 1:
            check(
                self.embed == "both",
                "method.embed",
                f"{self.embed!r} needs two sensors or more, the data give one; set it to 'both'",
            )
        super().__post_init__()
        if self.bound:
            for spec in self.specs.values():
                window_masks.check(
                    self.read_tokens(spec),
                    self.swin(spec.tokens).window,
                    self.mask_ratio,
                    kind=self.mask_kind,
                    mirror=self.mirror,
                )

    def swin(self, tokens: tuple[int, int]) -> Swin:
        """The transformer of a sensor that has ``tokens`` = (time, freq) patches."""
        return self.encoder.fitted(tokens) if self.padding == "ignored" else self.encoder

    def padded(self, tokens: tuple[int, int]) -> tuple[int, int]:
        return self.swin(tokens).padded(tokens)

    def read_tokens(self, spec: SpectrogramSpec) -> np.ndarray:
        """``[t f]`` bool: patches of a sensor that are attended to and may be masked."""
        valid = spec.valid_tokens
        return valid if self.padding == "ignored" else np.ones_like(valid)

    @property
    def mirror(self) -> bool:
        """Whether the mirror image of a masked patch, which shows the same, is masked with it: in a
        two-sided spectrum always; in the released code for tubes alone."""
        return self.frontend.two_sided and (self.padding == "ignored" or self.mask_kind == "tube")

    @property
    def fused(self) -> bool:
        """Whether there are other sensors to predict a sensor from."""
        return len(self.signals) > 1

    @property
    def grid(self) -> TokenGrid:
        """One token for each step in time of the last layer: means over bins, sensors side by
        side."""
        return self.time_grid(self.encoder.scale)

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return {**super().higher_is_better, "unimodal": False, "fused": False}

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        present = {name: jnp.ones(1, bool) for name in self.specs}
        masked = {name: jnp.zeros((1, *p.grid.shape), bool) for name, p in self.specs.items()}
        inputs = self.example_patches, present, masked
        return _Net(self).init(key, *inputs, method=_Net.everything)["params"]

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del target, step
        spectra = self.spectra(batch)
        masked = self.sample_masks(rngs("mask"), spectra)
        return self.loss_with_masks(params, batch, spectra, masked, rngs)

    def loss_with_masks(
        self,
        params: PyTree,
        batch: Batch,
        spectra: dict[str, Spectrogram],
        masked: Masked,
        rngs: Streams,
    ) -> Loss:
        """The loss of a batch, whose spectrograms are ``spectra``, under these masks."""
        patches, present = self._inputs(spectra)
        unimodal, fused = apply(
            _Net(self), params, patches, present, masked, train=True, dropout=rngs("dropout")
        )
        energy = losses.mean_present({n: x.energy for n, x in spectra.items()}, present)
        weight = {
            name: _error_weights(self, spec, masked[name], spectra[name].valid)
            for name, spec in self.specs.items()
        }
        counts = {name: jnp.sum(x, axis=(1, 2)) for name, x in masked.items()}
        total, values = jnp.zeros(energy.shape), {}
        for kind, factor, out in (("unimodal", 1.0, unimodal), ("fused", self.gamma, fused)):
            if not out:
                continue
            terms = {
                name: _error(self, out[name], patches[name], weight[name], energy, counts[name])
                for name in out
            }
            values[kind] = sum(jnp.where(present[n], term, 0.0) for n, term in terms.items())
            total = total + factor * values[kind]
        return summarise({"loss": total, **values}, batch)

    def features_of(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        spectra = self.spectra(batch)
        patches, present = self._inputs(spectra)
        unimodal, fused, last = apply(
            _Net(self),
            params,
            patches,
            present,
            train=dropout is not None,
            dropout=dropout,
            method=_Net.vectors,
        )
        vectors = {"unimodal": [unimodal], "fused": [fused], "both": [unimodal, fused]}[self.embed]
        grid = self.grid
        tokens = [
            self._mean_over_bins(spec, last[name][:, : grid.time], present[name])
            for name, spec in self.specs.items()
        ]
        frames = jnp.any(jnp.stack([spectra[name].valid for name in self.specs]), axis=0)
        return Features(
            tokens=jnp.concatenate(tokens, axis=-1),
            grid=grid,
            clip=jnp.concatenate([x for part in vectors for x in part.values()], axis=-1),
            valid=any_of(frames, self.encoder.scale * self.patch_frames, grid.time),
        )

    def _mean_over_bins(self, spec: SpectrogramSpec, last: Array, present: Array) -> Array:
        """The mean ``[b t d]`` of the last layer ``[b t f d]`` over the columns that hold a bin; 0
        where the sensor is absent."""
        columns = self.read_tokens(spec).any(0).reshape(-1, self.encoder.scale).any(1)
        weight = columns.astype(np.float32)
        mean = jnp.einsum("btfd,f->btd", last, weight / weight.sum())
        return jnp.where(present[:, None, None], mean, 0.0)

    def reconstruct(self, params, batch: Batch, rngs: Streams) -> Reconstruction:
        spectra = self.spectra(batch)
        masked = self.sample_masks(rngs("mask"), spectra)
        return self.reconstruct_with_masks(params, spectra, masked)

    def reconstruct_with_masks(
        self, params: PyTree, spectra: dict[str, Spectrogram], masked: Masked
    ) -> Reconstruction:
        """The spectrograms with the masked patches as each is reconstructed from its vector."""
        patches, present = self._inputs(spectra)
        unimodal, _ = apply(_Net(self), params, patches, present, masked, train=False)
        return self.reconstruction(spectra, masked, unimodal)

    def _inputs(self, spectra: dict[str, Spectrogram]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Patches ``[b n p]`` and presence ``[b]`` by sensor."""
        return self.patches(spectra)[0], {name: spectra[name].present for name in self.specs}

    # ------------------------------------------------------------------ its masks

    def sample_masks(self, key: Array, spectra: dict[str, Spectrogram]) -> Masked:
        """Masked patches by sensor, the same number in every row."""
        out = {}
        for k, (name, spec) in zip(jax.random.split(key, len(self.specs)), self.specs.items()):
            out[name] = window_masks.sample(
                k,
                spectra[name].inputs.shape[0],
                self.read_tokens(spec),
                window=self.swin(spec.tokens).window,
                ratio=self.mask_ratio,
                kind=self.mask_kind,
                mirror=self.mirror,
            )
        return out

    @property
    def mask_units(self) -> dict[str, SpectrogramSpec]:
        """The units that are masked as a whole, by sensor: attention windows, as patches of that
        size."""
        out = {}
        for name, spec in self.specs.items():
            window = self.swin(spec.tokens).window
            grid = TokenGrid(*(n // w for n, w in zip(spec.grid.shape, window)), order="time_major")
            patch = spec.patch[0] * window[0], spec.patch[1] * window[1]
            out[name] = dataclasses.replace(spec, patch=patch, grid=grid)
        return out

    def masks_of_units(self, masks: dict[str, Mask]) -> Masked:
        """Masks over ``mask_units`` as :meth:`loss_with_masks` takes them."""
        out = {}
        for name, unit in self.mask_units.items():
            masked = masks[name].is_masked.reshape(-1, *unit.grid.shape)
            for axis, size in enumerate(self.swin(self.specs[name].tokens).window, 1):
                masked = jnp.repeat(masked, size, axis=axis)
            out[name] = masked
        return out


def as_released(cfg: FreqMAE) -> FreqMAE:
    """The config with what the released code does differently from our defaults, flaws included.

    The input is the magnitude and the phase of both sides of the spectrum of every interval without
    its mean, neither tapered nor scaled nor standardised. Windows are one frame high, are shifted
    by one frame, which changes nothing, and have no mask at the seam. The error has the energy of a
    clip as a mere offset. Padding is treated like signal. The decoder strings the children of a
    cell together.

    All else stays as in ``cfg``: the sensors, intervals, patches and bins of a window, widths and
    depths, masks, ``gamma`` and ``exponent``. Weight decay, which the released optimiser applies to
    every parameter that is trained, and the frozen patch embedding belong to the recipe
    (``optim.decay``, ``optim.lr_mult``; see ``freqmae_mod_released``).
    """
    spectrum = replace(
        cfg.frontend,
        form="magnitude_phase",
        two_sided=True,
        remove_mean=True,
        normalise=False,
        taper="rectangular",
    )
    swin = replace(cfg.encoder, window=(1, cfg.encoder.window[1]), shift=(1, 0), wrap_mask=False)
    return replace(
        cfg,
        frontend=spectrum,
        encoder=swin,
        standardise="none",
        error="as_released",
        padding="as_released",
        children="as_released",
    )


def frequency_weights(bins: int, *, two_sided: bool) -> np.ndarray:
    """``[bins]`` weights that fall linearly from 1 at 0 Hz to 0 at the highest frequency; those of
    a two-sided spectrum rise again to 1 at the last bin, as released (docs/freqmae.md)."""
    if not two_sided:
        return 1 - np.arange(bins) / max(1, bins - 1)
    half = bins // 2
    rise = np.arange(half) / max(1, half - 1)
    return np.concatenate([1 - rise, np.zeros(bins - 2 * half), rise])


# ------------------------------------------------------------------ the network


class _Net(nn.Module):
    cfg: FreqMAE

    def setup(self):
        cfg, encoders, decoders, fused = self.cfg, {}, {}, {}
        for name, spec in cfg.specs.items():
            swin, tokens = cfg.swin(spec.tokens), spec.grid.shape
            read = cfg.read_tokens(spec)
            valid = None if read.all() else read
            encoders[name] = ModalityEncoder(swin, tokens, cfg.embedding, valid)
            decoder = functools.partial(
                ModalityDecoder, swin, tokens, spec.patch_size, valid, cfg.children
            )
            decoders[name], fused[name] = decoder(), decoder()
        # Attributes name the parameters: ``sensor_acc``, ``unimodal_decoder_acc``.
        self.sensor, self.unimodal_decoder = encoders, decoders
        if cfg.fused:
            self.predict = {n: SensorPredictor(cfg.fusion, cfg.embedding) for n in encoders}
            self.fused_decoder = fused

    def vectors(
        self,
        patches: dict[str, Array],
        present: dict[str, Array],
        masked: Masked | None = None,
        *,
        train: bool = False,
    ) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
        """By sensor: its vector ``[b d]`` (zeros where it is absent), the vector that the others
        predict, and the last layer ``[b t f d]`` of its encoder."""
        unimodal, last = {}, {}
        for name, encoder in self.sensor.items():
            tokens = None if masked is None else masked[name]
            x, last[name] = encoder(patches[name], tokens, train=train)
            unimodal[name] = jnp.where(present[name][:, None], x, 0.0)
        if not self.cfg.fused:
            return unimodal, {}, last
        fused = {
            name: predict(jnp.concatenate([x for n, x in unimodal.items() if n != name], axis=-1))
            for name, predict in self.predict.items()
        }
        return unimodal, fused, last

    def __call__(
        self, patches: dict[str, Array], present: dict[str, Array], masked: Masked, *, train: bool
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Patches ``[b n p]`` by sensor, reconstructed from its vector and from the predicted
        one."""
        unimodal, fused, _ = self.vectors(patches, present, masked, train=train)
        first = {n: f(unimodal[n], train=train) for n, f in self.unimodal_decoder.items()}
        if not fused or not self.cfg.gamma:
            return first, {}
        return first, {n: f(fused[n], train=train) for n, f in self.fused_decoder.items()}

    def everything(self, patches, present, masked):
        """Uses every parameter, so that all are initialised."""
        unimodal, fused, _ = self.vectors(patches, present, masked)
        for name, decode in self.unimodal_decoder.items():
            decode(unimodal[name])
            if fused:
                self.fused_decoder[name](fused[name])


# ------------------------------------------------------------------ the error


def _cell_weights(cfg: FreqMAE, spec: SpectrogramSpec) -> np.ndarray:
    """``[n p]``: the frequency weight of every value of every patch. It is 0 in padding, unless
    padding is treated as released."""
    released = cfg.padding == "as_released"
    valid = spec.valid_cells
    bins = valid.shape[1] if released else spec.bins
    weight = np.zeros(valid.shape)
    weight[:, :bins] = (
        frequency_weights(bins, two_sided=cfg.frontend.two_sided) if cfg.frequency_weight else 1.0
    )
    return spec.patch_weights(weight if released else weight * valid)


def _error_weights(cfg: FreqMAE, spec: SpectrogramSpec, masked: Array, frames: Array) -> Array:
    """``[b n p]``: the weight of every value of a sensor in the error.

    It is 0 in patches that are not masked (``masked`` ``[b t f]``), and, unless padding is treated
    as released, in frames without signal (``frames`` ``[b t]``).
    """
    weight = masked.reshape(masked.shape[0], -1, 1) * _cell_weights(cfg, spec)[None]
    if cfg.padding == "ignored":
        time = any_of(frames, spec.patch[0], spec.grid.time)
        weight = weight * jnp.repeat(time, spec.grid.freq, axis=1)[..., None]
    return weight


def _error(
    cfg: FreqMAE, pred: Array, truth: Array, weight: Array, energy: Array, count: Array
) -> Array:
    """``[b]``: the error of one reconstruction of a sensor (docs/freqmae.md).

    ``pred``, ``truth`` and ``weight`` ``[b n p]``; ``energy`` ``[b]`` of the sample, ``count``
    ``[b]`` of its masked patches.
    """
    if cfg.error == "mae":
        return losses.weighted_mse(pred, truth, weight)
    error = jnp.sum(weight * jnp.square(pred - truth), axis=(1, 2))
    if cfg.error == "as_released":
        return losses.wpsnr_as_released(error, energy, exponent=cfg.exponent, count=count)
    signal = jnp.sum(weight * jnp.square(truth), axis=(1, 2))
    return losses.snr_weighted(error, signal, energy, exponent=cfg.exponent)
