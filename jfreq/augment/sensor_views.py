"""Random views of sensor windows: one change in time, then one in frequency, for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jfreq.augment import frequency_domain, time_domain
from jfreq.augment.spectrogram import Key
from jfreq.ranges import NonNegative, Probability, Size, checked
from jfreq.types import InputError, SignalSpec

TimeChange = Literal[
    "jitter",
    "scale",
    "rotate",
    "negate",
    "flip",
    "shuffle",
    "permute",
    "warp_time",
    "warp_magnitude",
]
FrequencyChange = Literal["amplitude", "phase", "shift", "mask", "low_pass", "remove_add"]
SHARED = {"rotate", "negate", "flip", "shuffle", "permute", "warp_time"}
"""Changes that are the same for all sensors of a device: they move the device or its clock."""
Change = Callable[..., Array]


@checked
class Views:
    """Which changes a view may have, and how strong they are.

    For every row one change is sampled from each pool and applied with ``prob``.
    """

    time: tuple[TimeChange, ...] = tuple(x for x in get_args(TimeChange) if x != "shuffle")
    frequency: tuple[FrequencyChange, ...] = get_args(FrequencyChange)
    prob: Probability = 0.5
    jitter: NonNegative = 0.05
    """Standard deviation of the noise, in units of the standardised signal."""
    scale: NonNegative = 0.1
    segments: Size = 5
    warp: NonNegative = 0.2
    """Standard deviation, about 1, of the smooth curves of time and magnitude warps."""
    knots: Size = 4
    amplitude: NonNegative = 0.3
    phase: NonNegative = 0.7853981633974483
    """Largest rotation of phases in radians."""
    band: Probability = 0.5
    """Fraction of the bins whose amplitude or phase is perturbed."""
    mask: Probability = 0.3
    """Widest masked band and lowest cut-off of the low-pass, as fractions of all bins."""
    remove: Probability = 0.1

    def check(self, signals: Sequence[SignalSpec]) -> None:
        """Raises ``InputError`` where a change does not suit the sensors."""
        for s in signals:
            if "rotate" in self.time and s.channels % 3:
                raise InputError(
                    f"views.time: 'rotate' rotates triads of axes, {s.name!r} has {s.channels} "
                    "channels; leave it out"
                )
            if s.samples < 8:
                raise InputError(
                    f"views: windows of {s.name!r} have {s.samples} samples, but need 8 or more"
                )

    @property
    def _time(self) -> dict[str, Change]:
        return {
            "jitter": partial(time_domain.jitter, sigma=self.jitter),
            "scale": partial(time_domain.scale, sigma=self.scale),
            "rotate": time_domain.rotate,
            "negate": time_domain.negate,
            "flip": time_domain.flip,
            "shuffle": time_domain.shuffle_channels,
            "permute": partial(time_domain.permute, segments=self.segments),
            "warp_time": partial(time_domain.warp_time, sigma=self.warp, knots=self.knots),
            "warp_magnitude": partial(
                time_domain.warp_magnitude, sigma=self.warp, knots=self.knots
            ),
        }

    @property
    def _frequency(self) -> dict[str, Change]:
        return {
            "amplitude": partial(
                frequency_domain.perturb_amplitude, sigma=self.amplitude, fraction=self.band
            ),
            "phase": partial(frequency_domain.perturb_phase, angle=self.phase, fraction=self.band),
            "shift": frequency_domain.shift_phase,
            "mask": partial(frequency_domain.mask_band, widest=self.mask),
            "low_pass": partial(frequency_domain.low_pass, lowest=self.mask),
            "remove_add": partial(frequency_domain.remove_add, prob=self.remove),
        }

    def __call__(
        self, key: Key, sensors: Sequence[Float[Array, "b _ _"]]
    ) -> list[Float[Array, "b _ _"]]:
        """One view of every row, sampled independently; sensors ``[b t c]`` keep their shapes."""
        keys = jax.random.split(key, sensors[0].shape[0])
        return jax.vmap(self._view)(keys, list(sensors))

    def _view(self, key: Key, sensors: list[Array]) -> list[Array]:
        pools = (self._time, self.time), (self._frequency, self.frequency)
        for i, (pool, names) in enumerate(pools):
            if names:
                named = {name: pool[name] for name in names}
                sensors = self._one_of(jax.random.fold_in(key, i), sensors, named)
        return sensors

    def _one_of(self, key: Key, sensors: list[Array], pool: dict[str, Change]) -> list[Array]:
        use_key, which_key, key = jax.random.split(key, 3)
        which = 1 + jax.random.randint(which_key, (), 0, len(pool))
        which = jnp.where(jax.random.bernoulli(use_key, self.prob), which, 0)

        def apply(name: str, change: Change) -> Callable[[list[Array]], list[Array]]:
            number = range(len(sensors))
            keys = [key if name in SHARED else jax.random.fold_in(key, i) for i in number]
            return lambda sensors: [change(k, x) for k, x in zip(keys, sensors)]

        branches = [lambda sensors: sensors, *(apply(*item) for item in pool.items())]
        return jax.lax.switch(which, branches, sensors)
