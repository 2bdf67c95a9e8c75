"""PhyMask-style masking: the energy and the coherence of the signal decide what stays visible
(after Kara et al., SenSys 2024).

Only the abstract of the paper is public: energy says which regions matter, coherence which dynamics
last, the two are combined, up to 96 % are masked. Every formula here is our reading of it: the
scores and the sampling (:mod:`jfreq.masks.energy_coherence`), the part that is sampled uniformly,
the temperature, and the budgets of the sensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.config import check, replace
from jfreq.masks import energy_coherence
from jfreq.method import Loss, Streams, Wrapper
from jfreq.methods.common.sensor_spectra import Spectrogram, SpectrogramSpec
from jfreq.methods.freqmae import FreqMAE
from jfreq.methods.mae import MAE
from jfreq.ranges import Count, Positive, Probability, checked
from jfreq.types import Array, Batch, DataSpec, Mask, Reconstruction


@checked
class PhyMask(Wrapper):
    """A masked autoencoder under masks that follow energy and coherence. The encoder of
    :class:`MAE` reads the visible tokens alone, so that high ratios save time and memory; that of
    :class:`FreqMAE` reads all tokens, so that they save nothing.
    """

    inner: ClassVar[str] = "trunk"

    trunk: MAE | FreqMAE = MAE(mask_ratio=0.9)
    """Its ``mask_ratio`` is the fraction masked; published: up to 0.96."""
    alpha: Probability = 0.5
    """Weight of energy in the score; coherence has the rest."""
    coherence: Literal["frames", "modalities", "both"] = "frames"
    """Coherence between neighbouring frames of a sensor, between sensors of equal rate, or the mean
    of both."""
    high_scores: Literal["visible", "masked"] = "visible"
    """Whether high scores stay visible or, as an ablation, are masked."""
    floor: Probability = 0.1
    """Fraction of the visible patches (rho) that are sampled uniformly, so that every region is
    visible at times."""
    temperature: tuple[Positive, Positive] = (1.0, 0.1)
    """First and last temperature of the sampling: a high one samples uniformly, 0 takes the highest
    scores."""
    anneal_steps: Count = 500
    """Updates from the first temperature to the last, along a cosine; half of a run."""
    budget: Literal["entropy", "equal"] = "entropy"
    """``entropy``: more of a sensor stays visible where its energy is spread over more patches,
    which is measured once before training; ``equal``: the same fraction of every sensor."""
    visible: tuple[Count, ...] | None = None
    """Visible patches (windows on ``FreqMAE``) of each sensor; None: decided by the data."""

    def __post_init__(self):
        check(
            self.trunk.mask_kind == "random",
            "method.trunk.mask_kind",
            "must be 'random': energy and coherence decide what is masked",
        )
        if not self.signals:
            return
        counts = self.unit_counts
        if self.visible is not None:
            check(
                len(self.visible) == len(counts),
                "method.visible",
                f"names {len(self.visible)} budgets for {len(counts)} sensors; give one per sensor",
            )
            for name, n, k in zip(self.trunk.specs, counts, self.visible):
                check(
                    k < n,
                    "method.visible",
                    f"{k} of {n} patches of {name!r}; one must stay visible and one be masked",
                )
        if self.coherence != "frames":
            for name in self.trunk.specs:
                check(
                    bool(self.partners(name)),
                    "method.coherence",
                    f"no other sensor has the rate of {name!r}; use 'frames'",
                )

    def bind(self, spec: DataSpec) -> Self:
        trunk = self.trunk.bind(spec)
        return replace(self, trunk=trunk, signals=trunk.signals)

    def unbind(self) -> Self:
        return replace(super().unbind(), trunk=self.trunk.unbind(), visible=None)

    def calibrate(self, batch: Mapping[str, Any]) -> Self:
        """Calibrates the trunk, then sets the budgets by how widely the energy of ``batch`` is
        spread over the patches of each sensor (its entropy)."""
        self = replace(self, trunk=self.trunk.calibrate(batch))
        if self.visible is not None or self.budget == "equal":
            return self

        def measure(batch: Batch) -> list[tuple[Array, Array]]:
            spectra = self.trunk.spectra(batch)
            return [
                (
                    energy_coherence.entropy(spectra[n].real, spectra[n].imag, unit.patch),
                    spectra[n].present,
                )
                for n, unit in self.trunk.mask_units.items()
            ]

        entropies = [
            float(np.mean(entropy[present])) if present.any() else 0.0
            for entropy, present in jax.device_get(jax.jit(measure)(batch))
        ]
        ratio = self.trunk.mask_ratio
        return replace(self, visible=energy_coherence.budgets(self.unit_counts, ratio, entropies))

    @property
    def unit_counts(self) -> tuple[int, ...]:
        """How many patches (windows) of each sensor hold signal."""
        return tuple(int(unit.valid_tokens.sum()) for unit in self.trunk.mask_units.values())

    @property
    def visible_counts(self) -> tuple[int, ...]:
        """How many patches (windows) of each sensor stay visible."""
        if self.visible is not None:
            return self.visible
        ratio = self.trunk.mask_ratio
        return tuple(max(1, n - max(1, round(ratio * n))) for n in self.unit_counts)

    def partners(self, name: str) -> list[str]:
        """Other sensors whose frames and bins are the same."""

        def shape(spec: SpectrogramSpec) -> tuple[int, int, float]:
            return spec.frames, spec.bins, spec.signal.rate

        specs = self.trunk.specs
        return [n for n, spec in specs.items() if n != name and shape(spec) == shape(specs[name])]

    # ------------------------------------------------------------------ the paper

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        """The loss of the trunk under these masks."""
        del target
        spectra = self.trunk.spectra(batch)
        masks = self.sample_masks(rngs("mask"), spectra, step)
        return self.trunk.loss_with_masks(params, batch, spectra, masks, rngs)

    def reconstruct(self, params, batch: Batch, rngs: Streams) -> Reconstruction:
        """What the trunk reconstructs under a mask as at the end of training."""
        spectra = self.trunk.spectra(batch)
        masks = self.sample_masks(rngs("mask"), spectra)
        return self.trunk.reconstruct_with_masks(params, spectra, masks)

    def sample_masks(self, key: Array, spectra: Mapping[str, Spectrogram], step: Any = None) -> Any:
        """Masks by sensor as the trunk takes them; ``step`` None: as at the end of training."""
        step = self.anneal_steps if step is None else step
        return self.trunk.masks_of_units(unit_masks(self, key, spectra, step))


# ------------------------------------------------------------------ energy and coherence


def scores(cfg: PhyMask, spectra: Mapping[str, Spectrogram]) -> dict[str, Array]:
    """Scores ``[b n]`` in [0, 1] by sensor, high where energy and coherence are high."""
    out = {}
    for name, unit in cfg.trunk.mask_units.items():
        spectrum = (spectra[name].real, spectra[name].imag)
        energy = energy_coherence.energy(*spectrum, unit.patch)
        # None stands for the neighbouring frames of the sensor itself.
        others: list[tuple[Array, Array] | None] = []
        if cfg.alpha < 1 and cfg.coherence in ("frames", "both"):
            others.append(None)
        if cfg.alpha < 1 and cfg.coherence in ("modalities", "both"):
            others += [(spectra[n].real, spectra[n].imag) for n in cfg.partners(name)]
        parts = [energy_coherence.coherence(*spectrum, unit.patch, other=x) for x in others]
        coherence = jnp.mean(jnp.stack(parts), axis=0) if parts else jnp.zeros_like(energy)
        out[name] = energy_coherence.importance(
            _on_grid(energy, unit), _on_grid(coherence, unit), cfg.alpha
        )
    return out


def _on_grid(score: Array, unit: SpectrogramSpec) -> Array:
    """Scores ``[b t f]`` of the patches that hold signal, padded with zeros to the grid."""
    more = (n - m for n, m in zip(unit.grid.shape, score.shape[1:]))
    return jnp.pad(score, ((0, 0), *((0, m) for m in more)))


def unit_masks(
    cfg: PhyMask, key: Array, spectra: Mapping[str, Spectrogram], step: Any
) -> dict[str, Mask]:
    """Masks by sensor over its patches (windows), with exactly the budgets visible."""
    temperature = energy_coherence.temperature(
        step, cfg.anneal_steps, start=cfg.temperature[0], end=cfg.temperature[1], fraction=1.0
    )
    ranked, out = scores(cfg, spectra), {}
    keys = jax.random.split(key, len(ranked))
    for k, (name, unit), visible in zip(keys, cfg.trunk.mask_units.items(), cfg.visible_counts):
        out[name] = energy_coherence.sample_by_importance(
            k,
            ranked[name],
            visible,
            temperature=temperature,
            floor=cfg.floor,
            sign=1 if cfg.high_scores == "visible" else -1,
            valid=unit.tokens_with(spectra[name].valid),
        )
    return out
