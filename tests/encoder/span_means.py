"""A method whose every frame has a closed form."""

import jax.numpy as jnp
import numpy as np

from jfreq.encoder.encoder import Encoder
from jfreq.method import Method
from jfreq.ranges import checked
from jfreq.types import Features, SignalSpec, TokenGrid

RATE, HOP, SPAN = 16000, 2560, 2800
AUDIO = SignalSpec("audio", RATE, 15000)
GRID = TokenGrid(time=6, freq=2, first=SPAN / 2, hop=HOP)
"""Patches of 16 frames; the sixth is centred inside the window and reaches beyond it."""


@checked
class SpanMeans(Method):
    """Token (f, t): (f + 1) times the mean of span t of each modality and of its square."""

    grid: TokenGrid = GRID
    span: int = SPAN

    def encode(self, params, batch):
        grid, span = self.grid, self.span
        columns = []
        for spec in self.signals:
            ratio = spec.rate / self.signals[0].rate
            starts = np.arange(grid.time) * round(grid.hop * ratio)
            index = starts[:, None] + np.arange(round(span * ratio))
            x = jnp.pad(batch[spec.name][..., 0], ((0, 0), (0, int(index.max()) + 1)))
            columns += [x[:, index].mean(-1), (x[:, index] ** 2).mean(-1)]
        by_time = jnp.stack(columns, -1) * params["gain"]
        rows = [by_time * (f + 1) for f in range(grid.freq)]
        axis = 1 if grid.order == "freq_major" else 2
        tokens = jnp.stack(rows, axis).reshape(len(by_time), grid.size, -1)
        centre = grid.first + grid.hop * np.arange(grid.time)
        inside = jnp.asarray(centre)[None] <= batch["length"][:, None]
        inside = inside | (np.arange(grid.time) == 0)[None]
        valid = jnp.stack([inside] * grid.freq, axis).reshape(len(by_time), grid.size)
        clip = (tokens * valid[..., None]).sum(1) / valid.sum(1)[:, None]
        return Features(tokens, grid, clip, valid)


class Signed(SpanMeans):
    """Logits of a window: its mean, once and with the other sign."""

    def encode(self, params, batch):
        features = super().encode(params, batch)
        mean = features.clip[:, :1]
        return features._replace(logits=jnp.concatenate([-mean, mean], 1))


def fake(
    grid: TokenGrid = GRID, *, span: int = SPAN, signals=(AUDIO,), frame_ms: float | None = None
) -> Encoder:
    method = SpanMeans(signals, grid, span)
    return Encoder(method, {"gain": np.float32(1)}, signals=signals, frame_ms=frame_ms)


def expected_frames(x: np.ndarray, grid: TokenGrid = GRID, span: int = SPAN) -> np.ndarray:
    """Frames of the whole recording at once, in float64; each row averages to 1.5 times a mean."""
    count = max(1, int((len(x) - grid.first) // grid.hop) + 1)
    scale = np.mean(np.arange(grid.freq) + 1.0)
    padded = np.concatenate([x.astype(np.float64), np.zeros(span + int(grid.hop))])
    sums = [np.concatenate([[0.0], np.cumsum(power)]) for power in (padded, padded**2)]
    starts = np.arange(count) * int(grid.hop)
    return scale * np.stack([(c[starts + span] - c[starts]) / span for c in sums], -1)


def noise(rng: np.random.Generator, length: int) -> np.ndarray:
    return (0.3 + rng.uniform(-0.5, 0.5, length)).astype(np.float32)


LENGTHS = (1, 1399, 1400, 1401, 12_800, 14_999, 15_000, 15_001, 27_799, 27_800, 27_801, 100_003)
