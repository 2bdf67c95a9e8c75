"""PhyMask-style masking: what stays visible is chosen by the physics of the signal (after Kara et
al., SenSys 2024).

Only the abstract of the paper is public: energy says which regions matter, coherence which dynamics
last, the two are combined, up to 96 % are masked. Every formula here is our reading of it: the
scores and their selection (:mod:`jfreq.masks.energy_coherence`), the share drawn uniformly, the
temperature, the budgets of the sensors.
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
from jfreq.methods.common.sensor_spectra import Place, Spectra, inside_tokens, spectra
from jfreq.methods.freqmae import FreqMAE
from jfreq.methods.mae import MAE, Masks
from jfreq.ranges import Count, Positive, Probability, checked
from jfreq.types import Array, Batch, DataSpec, Reconstruction


@checked
class PhyMask(Wrapper):
    """A masked autoencoder under masks that follow energy and coherence. On an :class:`MAE` masked
    tokens are dropped, so high ratios save time and memory; :class:`FreqMAE` sees every place and
    saves nothing. Only the abstract of the paper is public; these rules are our reading."""

    inner: ClassVar[str] = "trunk"

    trunk: MAE | FreqMAE = MAE(mask_ratio=0.9)
    """Its ``mask_ratio`` is the share masked; published: up to 0.96."""
    alpha: Probability = 0.5
    """Share of energy in the score, the rest is coherence."""
    coherence: Literal["frames", "modalities", "both"] = "frames"
    """Between neighbouring frames of a sensor; between sensors of equal rate; or their mean."""
    direction: Literal["keep", "hide"] = "keep"
    """What scores high stays visible, or is masked (the opposite sign, as an ablation)."""
    floor: Probability = 0.1
    """rho: share of the visible patches drawn uniformly, so that no region is never seen."""
    temperature: tuple[Positive, Positive] = (1.0, 0.1)
    """Of the draw, first and last: high is uniform, 0 takes the best alone."""
    anneal_steps: Count = 500
    """Updates from the first temperature to the last, along a cosine; half of a run."""
    budget: Literal["entropy", "equal"] = "entropy"
    """Sensors whose energy is spread wider keep more, measured once before training; or the same
    share of every sensor."""
    kept: tuple[Count, ...] | None = None
    """Visible patches (windows on ``FreqMAE``) of each sensor; None: decided by the data."""

    def __post_init__(self):
        check(
            self.trunk.mask_kind == "random",
            "method.trunk.mask_kind",
            "must stay 'random': the prior chooses",
        )
        if self.signals:
            counts = self.units
            if self.kept is not None:
                check(
                    len(self.kept) == len(counts),
                    "method.kept",
                    f"{len(self.kept)} budgets for {len(counts)} sensors",
                )
                for name, n, k in zip(self.trunk.planes, counts, self.kept):
                    check(
                        k < n,
                        "method.kept",
                        f"{k} of {n} patches of {name!r}; one must stay visible and one be masked",
                    )
            if self.coherence != "frames":
                for name in self.trunk.planes:
                    check(
                        bool(self.partners(name)),
                        "method.coherence",
                        f"no other sensor has the rate of {name!r}; use 'frames'",
                    )

    def bind(self, spec: DataSpec) -> Self:
        trunk = self.trunk.bind(spec)
        return replace(self, trunk=trunk, signals=trunk.signals)

    def unbind(self) -> Self:
        return replace(super().unbind(), trunk=self.trunk.unbind(), kept=None)

    def calibrate(self, batch: Mapping[str, Any]) -> Self:
        """With budgets, by the entropy of where the energy of ``batch`` lies; and the trunk's."""
        self = replace(self, trunk=self.trunk.calibrate(batch))
        if self.kept is not None or self.budget == "equal":
            return self
        found = jax.jit(lambda batch: _entropies(self, spectra(self.trunk, batch)))(batch)
        spread = [float(np.mean(h[p])) if p.any() else 0.0 for h, p in map(_arrays, found)]
        return replace(
            self, kept=energy_coherence.budgets(self.units, self.trunk.mask_ratio, spread)
        )

    @property
    def units(self) -> tuple[int, ...]:
        """Patches (windows) of each sensor that hold signal."""
        return tuple(int(place.real.sum()) for place in self.trunk.mask_units.values())

    @property
    def visible(self) -> tuple[int, ...]:
        """Of these, how many stay visible."""
        if self.kept is not None:
            return self.kept
        ratio = self.trunk.mask_ratio
        return tuple(max(1, n - max(1, round(ratio * n))) for n in self.units)

    def partners(self, name: str) -> list[str]:
        """Other sensors whose frames and bins are the same."""
        planes = self.trunk.planes
        own = planes[name]
        return [
            other
            for other, p in planes.items()
            if other != name
            and (p.frames, p.bins) == (own.frames, own.bins)
            and p.signal.rate == own.signal.rate
        ]

    # ------------------------------------------------------------------ the paper

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        """The trunk's, under these masks."""
        del target
        found = spectra(self.trunk, batch)
        masks = self.sample_masks(rngs("mask"), found, step)
        return self.trunk.loss_under(params, batch, found, masks, rngs)

    def reconstruct(self, params, batch: Batch, rngs: Streams) -> Reconstruction:
        """Under a mask as at the end of training."""
        found = spectra(self.trunk, batch)
        return self.trunk.reconstruct_under(params, found, self.sample_masks(rngs("mask"), found))

    def sample_masks(self, key: Array, found: dict[str, Spectra], step: Any = None) -> Any:
        """Masks by sensor as the trunk takes them; None: as at the end of training."""
        step = self.anneal_steps if step is None else step
        return self.trunk.of_units(chosen(self, key, found, step))


# ------------------------------------------------------------------ the prior


def scores(cfg: PhyMask, found: dict[str, Spectra]) -> dict[str, Array]:
    """``[b n]`` in [0, 1] by sensor, high where energy and coherence are."""
    out = {}
    for name, place in cfg.trunk.mask_units.items():
        own = (found[name].real, found[name].imag)
        energy = energy_coherence.energy(*own, place.cells)
        parts = []
        if cfg.alpha < 1 and cfg.coherence in ("frames", "both"):
            parts.append(energy_coherence.coherence(*own, place.cells))
        if cfg.alpha < 1 and cfg.coherence in ("modalities", "both"):
            others = [(found[j].real, found[j].imag) for j in cfg.partners(name)]
            parts += [
                energy_coherence.coherence(*own, place.cells, other=other) for other in others
            ]
        lasting = jnp.mean(jnp.stack(parts), axis=0) if parts else jnp.zeros_like(energy)
        out[name] = energy_coherence.importance(
            place.padded(energy), place.padded(lasting), cfg.alpha
        )
    return out


def chosen(cfg: PhyMask, key: Array, found: dict[str, Spectra], step) -> Masks:
    """Masks by sensor over its patches (windows), the budgets exactly."""
    heat = energy_coherence.temperature(
        step, cfg.anneal_steps, start=cfg.temperature[0], end=cfg.temperature[1], fraction=1.0
    )
    sign = 1 if cfg.direction == "keep" else -1
    ranked, out = scores(cfg, found), {}
    keys = jax.random.split(key, len(ranked))
    for k, (name, place), keep in zip(keys, cfg.trunk.mask_units.items(), cfg.visible):
        out[name] = energy_coherence.sample_by_importance(
            k,
            ranked[name],
            keep,
            temperature=heat,
            floor=cfg.floor,
            sign=sign,
            valid=_valid(found[name], place),
        )
    return out


def _valid(found: Spectra, place: Place) -> Array:
    """``[b n]`` bool: patches (windows) that hold signal."""
    plane = place.plane._replace(patch=place.cells)
    return inside_tokens(found, plane, place.shape)


def _entropies(cfg: PhyMask, found: dict[str, Spectra]) -> list[tuple[Array, Array]]:
    out = []
    for name, place in cfg.trunk.mask_units.items():
        spread = energy_coherence.entropy(found[name].real, found[name].imag, place.cells)
        out.append((spread, found[name].present))
    return out


def _arrays(pair: tuple[Array, Array]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(pair[0]), np.asarray(pair[1])
