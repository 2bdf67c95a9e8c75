"""Recordings that come in blocks give the windows of the whole."""

import numpy as np
import pytest

from jfreq.encoder.outputs import FailedRecording
from jfreq.encoder.windowing import cut_windows
from jfreq.types import InputError
from tests.encoder.span_means import (
    LENGTHS,
    RATE,
    noise,
)


def parted(clip, sizes):
    """The recording in blocks of these sizes, in turn."""
    start, i = 0, 0
    while start < len(clip["audio"]):
        yield {"audio": clip["audio"][start : start + sizes[i % len(sizes)]]}
        start, i = start + sizes[i % len(sizes)], i + 1


@pytest.mark.parametrize("length", LENGTHS)
def test_blocks_give_the_windows_of_the_whole(encoder, length):
    x = {"audio": noise(np.random.default_rng(length), length)[:, None]}
    whole = list(cut_windows([x], encoder.plan))
    for sizes in ((1000,), (1, 15_000, 3), (99_999,)):
        blocks = list(cut_windows(parted(x, sizes), encoder.plan))
        assert len(blocks) == len(whole)
        for a, b in zip(blocks, whole):
            assert a[1:] == b[1:]
            np.testing.assert_array_equal(a.signals["audio"], b.signals["audio"])


def test_a_recording_that_breaks_off_leaves_the_others(encoder):
    x = {"audio": noise(np.random.default_rng(13), 40_000)[:, None]}

    def broken():
        yield {"audio": x["audio"][:30_000]}
        raise InputError("the disk is gone")

    def empty():
        yield {"audio": x["audio"][:0]}

    parts = list(encoder.windows([[x], broken(), empty(), [x]], batch_size=2))
    failed = [p for p in parts if isinstance(p, FailedRecording)]
    assert [(p.recording, str(p.error)) for p in failed] == [
        (1, "the disk is gone"),
        (2, "holds no samples"),
    ]
    order = [p.recording for p in parts]
    assert order == sorted(order)
    first, second = ([p for p in parts if p.recording == i] for i in (0, 3))
    assert [p.last for p in first] == [False, False, True]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a.frames, b.frames, atol=1e-6)
    assert first[1].start == first[0].end == 12_800 / RATE and first[-1].end == 2.5
