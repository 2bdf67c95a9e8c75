"""A labelled set of shards in memory, with everything the probe reads from real ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.data.shards.metadata import ShardsInfo, SignalInfo
from jfreq.method import Method
from jfreq.ranges import checked
from jfreq.types import Features, TokenGrid


class FakeShards:
    """Rows ``x [n t c]`` float32 or int16 with ``label`` and the columns of the index."""

    def __init__(self, x, label, *, labels, rate=100.0, length=None, **columns):
        multi = label.ndim == 2
        n = len(x)
        text = {name: np.full(n, "") for name in ("subject", "split")}
        own = {"fold": np.full(n, -1), "label": label, "item": np.full(n, -1)}
        own |= {"path": np.array([f"{i:04d}.wav" for i in range(n)]), **text}
        self._columns = own | columns
        self._x, self._label = x, label
        self._length = np.full(n, x.shape[1], np.int32) if length is None else length
        self.manifest_hash = f"fake-{n}"
        self.manifests = (self.manifest_hash,)
        self.info = ShardsInfo(
            name="fake",
            signals=(SignalInfo("x", rate, x.shape[1], x.shape[2], str(x.dtype), 1.0),),
            rows=n,
            labels=tuple(labels),
            multi_label=multi,
            folds=tuple(int(f) for f in np.unique(self._columns["fold"]) if f >= 0),
            splits=tuple(sorted(set(self._columns["split"]) - {""})),
        )
        self.reads = 0

    @property
    def spec(self):
        return self.info.spec

    def __len__(self):
        return len(self._x)

    def folder_of(self, ids):
        return np.zeros(len(ids), int)

    def column(self, name):
        return self._columns[name]

    def read(self, ids):
        self.reads += len(ids)
        return {
            "x": self._x[ids],
            "label": self._label[ids].astype(np.float32 if self._label.ndim == 2 else np.int32),
            "id": np.asarray(ids, np.int32),
            "length": self._length[ids],
        }


@checked
class Patches(Method):
    """Tokens are the signal itself: row f, time t holds ``gain * x[t * freq + f]``."""

    freq: int = 2
    time: int = 4

    def encode(self, params, batch):
        freq, time = self.freq, self.time
        grid = TokenGrid(time=time, freq=freq, first=freq / 2, hop=freq)
        x = batch["x"][:, : freq * time] * params["gain"]
        tokens = x.reshape(len(x), time, freq, -1).swapaxes(1, 2).reshape(len(x), freq * time, -1)
        inside = (grid.first + grid.hop * np.arange(time))[None] <= batch["length"][:, None]
        valid = jnp.tile(inside, (1, freq))
        clip = (tokens * valid[..., None]).sum(1) / valid.sum(1)[:, None]
        return Features(tokens, grid, clip, valid, jnp.stack([tokens * (i + 1) for i in range(3)]))


@pytest.fixture(scope="session")
def make_shards():
    return FakeShards


@pytest.fixture(scope="session")
def make_patches():
    return Patches
