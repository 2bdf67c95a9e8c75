"""Two random views of windows of several sensors, as FOCAL changes them.

Every row gets at most one change in time and one in frequency; rows with the same change are
changed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

Change = Callable[[list[Tensor]], list[Tensor]]
"""Changes some rows ``[r t c]`` of every sensor."""


class Views:
    """Of a ``jfreq.augment.Views`` with the pools of FOCAL."""

    def __init__(self, cfg: Any):
        self.cfg = cfg
        known = {
            "permute": self.permute, "negate": lambda xs: [-x for x in xs],
            "warp_time": self.warp_time, "flip": lambda xs: [x.flip(1) for x in xs],
            "warp_magnitude": self.warp_magnitude, "scale": self.scale, "shift": self.shift,
        }  # fmt: skip
        self.pools = [[known[name] for name in pool] for pool in (cfg.time, cfg.frequency)]
        self.splines: dict[int, Tensor] = {}

    def __call__(self, sensors: list[Tensor]) -> list[Tensor]:
        for pool in self.pools:
            sensors, rows = [x.clone() for x in sensors], sensors[0].shape[0]
            which = torch.randint(len(pool), (rows,))
            which[torch.rand(rows) >= self.cfg.prob] = -1
            for i, change in enumerate(pool):
                chosen = (which == i).nonzero()[:, 0]
                if len(chosen):
                    for x, changed in zip(sensors, change([x[chosen] for x in sensors])):
                        x[chosen] = changed
        return sensors

    def permute(self, xs: list[Tensor]) -> list[Tensor]:
        """Segments between random times in another order, the same for all sensors."""
        rows, count = xs[0].shape[0], self.cfg.segments
        cuts, ranks = torch.rand(rows, count - 1), torch.rand(rows, count).argsort(dim=1)
        out = []
        for x in xs:
            segment = (torch.arange(x.shape[1])[:, None] >= cuts[:, None] * x.shape[1]).sum(-1)
            order = ranks.gather(1, segment).argsort(dim=1, stable=True)
            out.append(x.gather(1, order[..., None].expand_as(x)))
        return out

    def warp_time(self, xs: list[Tensor]) -> list[Tensor]:
        """Played at a speed that varies smoothly about 1, the same for all sensors."""
        values = self.values(xs[0].shape[0], 1)
        out = []
        for x in xs:
            steps = x.shape[1]
            speed = self.curve(values, steps)[..., 0].clamp_min(0.1)
            path = speed.cumsum(1) - speed[:, :1]
            path = path / path[:, -1:] * (steps - 1)
            low = path.floor().long().clamp(0, steps - 2)[..., None].expand_as(x)
            part = path[..., None] - low
            out.append(x.gather(1, low).lerp(x.gather(1, low + 1), part))
        return out

    def warp_magnitude(self, xs: list[Tensor]) -> list[Tensor]:
        return [x * self.curve(self.values(x.shape[0], x.shape[2]), x.shape[1]) for x in xs]

    def scale(self, xs: list[Tensor]) -> list[Tensor]:
        return [x * (1 + self.cfg.scale * torch.randn(x.shape[0], 1, x.shape[2])) for x in xs]

    def shift(self, xs: list[Tensor]) -> list[Tensor]:
        """All phases of a sensor turned by one angle."""
        out = []
        for x in xs:
            steps = x.shape[1]
            size = max(n for n in range(1, min(steps, 4096) + 1) if steps % n == 0)
            angle = torch.rand(x.shape[0], 1, 1, 1) * (2 * math.pi) - math.pi
            z = torch.fft.rfft(x.unflatten(1, (-1, size)), dim=2)
            turned = z * torch.polar(torch.ones(()), angle)
            turned[:, :, 0] = z[:, :, 0]
            if size % 2 == 0:
                turned[:, :, -1] = z[:, :, -1]
            out.append(torch.fft.irfft(turned, n=size, dim=2).flatten(1, 2))
        return out

    def values(self, rows: int, channels: int) -> Tensor:
        return 1 + self.cfg.warp * torch.randn(rows, self.cfg.knots + 2, channels)

    def curve(self, values: Tensor, steps: int) -> Tensor:
        """``[r t c]``: cubic splines through ``values`` ``[r k c]``."""
        if steps not in self.splines:
            knots = values.shape[1]
            at, points = torch.linspace(0, 1, steps), torch.linspace(0, 1, knots)
            table = CubicSpline(points.numpy(), torch.eye(knots).numpy())(at.numpy())
            self.splines[steps] = torch.from_numpy(table).float()
        return self.splines[steps] @ values
