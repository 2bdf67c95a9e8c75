import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.masks import window_masks
from jfreq.types import InputError


def plane(tokens, held=None):
    """All of ``tokens`` (time, frequency), of which the first ``held`` of each axis are valid."""
    t, f = held or tokens
    return (np.arange(tokens[0]) < t)[:, None] & (np.arange(tokens[1]) < f)


def sampled(rows, valid, seed=0, **options):
    made = jax.jit(lambda k: window_masks.sample(k, rows, valid, **options))
    return np.asarray(made(jax.random.key(seed)))


def by_window(mask, window):
    b, t, f = mask.shape
    cells = mask.reshape(b, t // window[0], window[0], f // window[1], window[1])
    assert (cells.min((2, 4)) == cells.max((2, 4))).all()
    return cells.max((2, 4))


@pytest.mark.parametrize(
    ("tokens", "window", "masked"),
    [
        ((12, 72), (1, 9), 72),
        ((12, 36), (1, 9), 36),
        ((8, 32), (2, 4), 24),
        ((12, 36), (3, 3), 36),
        ((12, 20), (3, 5), 12),
    ],
)
def test_released_counts(tokens, window, masked):
    """Section 1.b.7 of the sheet, in order: MOD audio and seismic, ACIDS, RealWorld, PAMAP2."""
    valid = plane(tokens)
    assert window_masks.count(valid, window, 0.75) == masked
    cells = by_window(sampled(3, valid, window=window, ratio=0.75), window)
    assert (cells.sum((1, 2)) == masked).all()
    assert len({row.tobytes() for row in cells}) == 3


@settings(max_examples=6, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3),
    st.floats(0.05, 0.95), st.integers(0, 2**31 - 1), st.data(),
)  # fmt: skip
def test_exactly_so_many_windows_and_none_of_padding(rows, columns, wt, wf, ratio, seed, data):
    tokens = (rows * wt, columns * wf)
    held = tuple(data.draw(st.integers(1, n)) for n in tokens)
    valid = plane(tokens, held)
    units = -(-held[0] // wt) * -(-held[1] // wf)
    options = {"window": (wt, wf), "ratio": ratio}
    if int(round(ratio * units, 6)) == 0:
        with pytest.raises(InputError, match="masks none"):
            window_masks.check(valid, (wt, wf), ratio)
        return
    cells = by_window(sampled(2, valid, seed, **options), (wt, wf))
    assert (cells.sum((1, 2)) == int(round(ratio * units, 6))).all()
    assert not cells[:, -(-held[0] // wt) :].any()
    assert not cells[:, :, -(-held[1] // wf) :].any()


def test_rows_and_columns_are_whole_and_sampled_for_each_sample():
    valid = plane((12, 24), (10, 20))
    time = by_window(sampled(40, valid, window=(2, 4), ratio=0.5, kind="time"), (2, 4))
    assert (time.max(2) == time.min(2)).all() and (time.max(2).sum(1) == 2).all()
    assert not time[:, 5].any()
    tube = by_window(sampled(40, valid, window=(2, 4), ratio=0.5, kind="tube"), (2, 4))
    assert (tube.max(1) == tube.min(1)).all() and (tube.max(1).sum(1) == 2).all()
    assert not tube[:, :, 5].any()
    for masked, ways in ((time, 10), (tube, 10)):  # 2 of 5
        assert len({row.tobytes() for row in masked}) == ways


@pytest.mark.parametrize("kind", ["random", "tube"])
@pytest.mark.parametrize("held", [24, 20, 15])
def test_mirrored_masks_hide_both_halves_of_a_two_sided_spectrum(kind, held):
    valid = plane((4, 24), (4, held))
    options = {"window": (1, 4), "ratio": 0.5, "kind": kind, "mirror": True}
    masked = sampled(6, valid, **options)
    np.testing.assert_array_equal(masked[:, :, :held], masked[:, :, :held][:, :, ::-1])
    assert not masked[:, :, held:].any()
    half = -(-held // 2)
    lower = np.pad(masked[:, :, :half], ((0, 0), (0, 0), (0, -half % 4)), mode="edge")
    cells = by_window(lower, (1, 4))
    number = (cells if kind == "random" else cells.max(1)).reshape(6, -1).sum(1)
    assert (number == window_masks.count(valid, (1, 4), 0.5, kind=kind, mirror=True)).all()


def test_mixed_takes_one_kind_for_each_sample():
    valid = plane((4, 8))
    masked = sampled(4000, valid, window=(1, 1), ratio=0.5, kind="mixed")
    time = (masked.min(2) == masked.max(2)).all(1)
    tube = (masked.min(1) == masked.max(1)).all(1)
    assert (masked.sum((1, 2)) == 16).all()
    assert abs(tube.mean() - 0.25) < 0.03 and abs(time.mean() - 0.25) < 0.03
    assert not (time & tube).any()


def test_every_window_is_masked_equally_often():
    masked = sampled(4000, plane((4, 8), (4, 6)), window=(2, 2), ratio=0.5)
    np.testing.assert_allclose(masked[:, :, :6].mean(0), 0.5, atol=0.04)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"window": (1, 9), "ratio": 1.0}, "between 0 and 1"),
        ({"window": (1, 9), "ratio": 0.0}, "between 0 and 1"),
        ({"window": (5, 1), "ratio": 0.5}, "do not tile 4 x 18"),
        ({"window": (4, 9), "ratio": 0.4}, "masks none of 2 windows"),
        ({"window": (2, 9), "ratio": 0.4, "kind": "time"}, "masks none of 2 rows"),
        ({"window": (1, 9), "ratio": 0.4, "kind": "mixed"}, "masks none of 2 columns"),
        ({"window": (1, 9), "ratio": 0.6, "kind": "tube", "mirror": True}, "none of 1 columns"),
    ],
)
def test_masks_that_cannot_be_are_refused(key, options, match):
    with pytest.raises(InputError, match=match):
        window_masks.sample(key, 2, plane((4, 18)), **options)
    with pytest.raises(InputError, match=match):
        window_masks.check(plane((4, 18)), **options)


def test_a_plane_of_padding_alone_is_refused():
    with pytest.raises(InputError, match="masks none of 0"):
        window_masks.check(np.zeros((4, 8), bool), (1, 4), 0.5, mirror=True)
