"""Folders of sound into one archive: order, what is skipped, and memory that does not grow."""

import dataclasses
import os
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr

from jfreq.encoder import inputs
from jfreq.encoder.embed_files import embed_files
from jfreq.encoder.encoder import Encoder
from jfreq.encoder.growing_npz import Column, ColumnArray, check_disk_space, write_npz
from jfreq.method import Method
from jfreq.types import Features, InputError, SignalSpec, TokenGrid

RATE, HOP = 16000, 2500
AUDIO = SignalSpec("audio", RATE, 15000)
GRID = TokenGrid(time=6, first=HOP / 2, hop=HOP)


class Levels(Method):
    """A frame is the mean and the mean square of its stretch."""

    def encode(self, params, batch):
        import jax.numpy as jnp

        x = batch["audio"].reshape(-1, 6, HOP)
        tokens = jnp.stack([x.mean(-1), jnp.square(x).mean(-1)], -1) + params["zero"]
        centre = GRID.first + GRID.hop * np.arange(6)
        valid = jnp.asarray(centre)[None] <= batch["length"][:, None]
        valid = valid | (np.arange(6) == 0)[None]
        clip = (tokens * valid[..., None]).sum(1) / valid.sum(1)[:, None]
        return Features(tokens, GRID, clip, valid)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(Levels(), {"zero": np.float32(0)}, signals=(AUDIO,))


def sound(path, seconds=0.5, rate=RATE, seed=0, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = 0.2 * np.random.default_rng(seed).normal(size=round(seconds * rate)).clip(-4, 4)
    soundfile.write(path, x, rate, **how)
    return x


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_files_one_by_one(encoder, tmp_path):
    shapes = {"a.wav": (0.6, RATE), "b.flac": (1.7, 44_100), "c.wav": (2.0, 8000)}
    for i, (name, (seconds, rate)) in enumerate(shapes.items()):
        sound(tmp_path / name, seconds, rate, seed=i)
    stereo = np.stack([sound(tmp_path / "d.wav", seed=9), np.ones(RATE // 2)], 1)
    soundfile.write(tmp_path / "d.wav", stereo, RATE, subtype="FLOAT")
    paths = [tmp_path / name for name in (*shapes, "d.wav")]
    seen = []
    out = embed_files(
        encoder,
        paths * 3,
        tmp_path / "deep" / "emb.npz",
        progress=lambda *state: seen.append(state),
    )
    assert seen == [(i + 1, 12) for i in range(12)]
    assert str(out) == f"{tmp_path / 'deep' / 'emb.npz'}: 12 recordings"
    assert out.path is not None
    assert [p.name for p in out.path.parent.iterdir()] == ["emb.npz"]
    found = read(out.path)
    assert sorted(found) == ["clip", "frames", "paths", "times_ms", "valid"]
    assert found["paths"].tolist() == [str(p) for p in paths * 3]
    assert found["frames"].shape == (12, found["valid"].max(), 2)
    assert len(found["times_ms"]) == found["frames"].shape[1]
    for i, path in enumerate(paths):
        x, rate = soundfile.read(path, dtype="float32", always_2d=True)
        alone = encoder(x[:, 0], rate)
        n = alone.valid[0]
        assert found["valid"][i] == n and not found["frames"][i, n:].any()
        np.testing.assert_allclose(found["frames"][i, :n], alone.frames[0], atol=1e-6)
        np.testing.assert_allclose(found["clip"][i], alone.clip[0], atol=1e-6)


def test_a_folder_is_walked_in_the_order_of_people(encoder, tmp_path):
    home = tmp_path / "my recordings"
    names = ["2.wav", "10.WAV", "a/b/c.flac", "dog 2/1.wav", "dog 10/1.ogg"]
    for name in reversed(names):
        sound(home / name)
    for other in (".hidden.wav", "__MACOSX/a.wav", "notes.txt", "index.csv"):
        (home / other).parent.mkdir(exist_ok=True)
        (home / other).write_text("path,label\n2.wav,dog\n")
    os.symlink(home, home / "a" / "loop")
    os.mkfifo(home / "pipe.wav")
    said = []
    out = embed_files(encoder, [home], tmp_path / "e.npz", say=said.append)
    assert read(out.path)["paths"].tolist() == [str(home / name) for name in names]
    assert said[0] == f"{home}: skipped 1 .csv, 1 .txt, which cannot be read"
    assert out.recordings == 5 and out.skipped == 2
    assert out.skipped_list is not None
    listed = out.skipped_list.read_text()
    assert "pipe.wav: is a pipe" in listed and "loop: is a link to a folder above" in listed
    assert str(out).endswith(f"5 recordings, 2 skipped (see {tmp_path / 'e.npz.skipped.txt'})")
    # The list goes when there is nothing to list any more.
    embed_files(encoder, [home / "2.wav"], tmp_path / "e.npz")
    assert not out.skipped_list.exists()


def damaged(folder):
    """Files that cannot be used, with what is said of each."""
    (folder / "text.wav").write_text("not a sound")
    (folder / "nothing.wav").write_bytes(b"")
    soundfile.write(folder / "empty.wav", np.zeros(0), RATE)
    late = np.zeros(60_000)
    late[55_000] = np.nan
    soundfile.write(folder / "late nan.wav", late, RATE, subtype="FLOAT")
    soundfile.write(folder / "zero hertz.wav", np.zeros(100), RATE)
    blob = bytearray((folder / "zero hertz.wav").read_bytes())
    blob[24:28] = bytes(4)
    (folder / "zero hertz.wav").write_bytes(bytes(blob))
    sound(folder / "cut.wav", 2.0)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[:20_000])
    return {
        "cut.wav": "was cut off: its header promises 32000 frames, 9978 are there",
        "text.wav": "is no sound that can be read",
        "nothing.wav": "is empty: it has 0 bytes",
        "empty.wav": "holds no samples",
        "late nan.wav": "holds NaN or infinite samples",
        "zero hertz.wav": "",
    }


def test_bad_files_are_skipped_named_and_listed(encoder, tmp_path):
    home = tmp_path / "set"
    sound(home / "a.wav", 3.3, seed=1)
    bad = damaged(home)
    sound(home / "z.wav", 2.1, seed=2)
    said = []
    out = embed_files(encoder, [home], tmp_path / "e.npz", say=said.append)
    found = read(out.path)
    assert found["paths"].tolist() == [str(home / "a.wav"), str(home / "z.wav")]
    assert out.skipped_list is not None
    lines = dict(line.split(": ", 1) for line in out.skipped_list.read_text().splitlines())
    assert lines.keys() == {str(home / name) for name in bad}
    for name, reason in bad.items():
        assert lines[str(home / name)].startswith(reason)
        assert f"skipped {home / name}: {lines[str(home / name)]}" in said
    for i, name in enumerate(("a.wav", "z.wav")):  # nothing of the one that broke off is left
        x, _ = soundfile.read(home / name, dtype="float32")
        alone = encoder(x)
        assert found["valid"][i] == alone.valid[0]
        np.testing.assert_allclose(found["frames"][i, : alone.valid[0]], alone.frames[0], atol=1e-6)
    for name in bad:
        with pytest.raises(InputError, match=f"{name}: "):
            embed_files(encoder, [home / "a.wav", home / name], tmp_path / "s.npz", strict=True)
        with pytest.raises(InputError, match=f"^{home / name}: {bad[name]}"):
            embed_files(encoder, [home / name], tmp_path / "s.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.npz", "e.npz.skipped.txt", "set"]


def test_channels_are_mixed_as_in_training(tmp_path):
    x = np.random.default_rng(4).normal(0, 0.1, (20_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "two.wav", x, RATE, subtype="FLOAT")
    for mix, wanted in (("first", x[:, 0]), ("mean", x.mean(1))):
        spec = dataclasses.replace(AUDIO, mix=mix)
        one = Encoder(Levels(), {"zero": np.float32(0)}, signals=(spec,))
        found = read(embed_files(one, [tmp_path / "two.wav"], tmp_path / "e.npz").path)
        np.testing.assert_allclose(found["clip"], one(wanted).clip, atol=1e-6)


def test_nothing_to_embed(encoder, tmp_path):
    def refused(*paths, out="e.npz"):
        with pytest.raises(InputError) as error:
            embed_files(encoder, paths, tmp_path / out)
        assert "\n" not in str(error.value) and not (tmp_path / "e.npz").exists()
        return str(error.value)

    home = tmp_path / "set"
    home.mkdir()
    assert f"{home}: holds no sound files" in refused(home) and "no files at all" in refused(home)
    (home / "a.m4a").write_text("x")
    assert "but only 1 .m4a, and is not a set of shards" in refused(home)
    assert "convert it, for instance `ffmpeg -i a.m4a a.wav`" in refused(home)
    damaged(home)
    assert "none of 6 recordings can be used; the first: " in refused(home)
    assert "no such file" in refused(home / "none.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    assert "is a pipe" in refused(tmp_path / "pipe.wav")
    assert "no recordings to embed" in refused()
    sound(home / "good.wav")
    assert "ends in .npz" in refused(home, out="set")
    (home / "000000.array_record").write_text("")
    assert "not a finished set of shards" in refused(home)


def test_a_long_file_is_never_held_whole(encoder, tmp_path):
    """Four minutes at 44.1 kHz: the same embedding as of the whole array, in a part of its size."""
    sound(tmp_path / "long.wav", 240, 44_100, subtype="PCM_16")
    x, _ = soundfile.read(tmp_path / "long.wav", dtype="float32")
    wanted = encoder(soxr.resample(x, 44_100, RATE))
    embed_files(encoder, [tmp_path / "long.wav"], tmp_path / "e.npz")  # everything is imported
    tracemalloc.start()
    out = embed_files(encoder, [tmp_path / "long.wav"], tmp_path / "e.npz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes / 3, peak
    found = read(out.path)
    assert found["frames"].shape[1] == wanted.valid[0] == 240 * RATE // HOP
    np.testing.assert_allclose(found["frames"], wanted.frames, atol=1e-5)
    np.testing.assert_allclose(found["clip"], wanted.clip, atol=1e-5)
    np.testing.assert_array_equal(found["times_ms"], wanted.times_ms)


def test_finer_frames_of_a_file(encoder, tmp_path):
    """Also where the blocks of a file end within shifted windows; the vectors stay."""
    fine = Encoder(Levels(), {"zero": np.float32(0)}, signals=(AUDIO,), frame_ms=31.25)
    x = sound(tmp_path / "a.wav", 70)
    sound(tmp_path / "b.wav", 0.05)
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    found = read(embed_files(fine, paths, tmp_path / "e.npz").path)
    plain = read(embed_files(encoder, paths, tmp_path / "f.npz").path)
    assert fine.hop_ms == 31.25
    assert found["valid"].tolist() == [(70 * RATE - 1250) // 500 + 1, 1]
    np.testing.assert_allclose(found["times_ms"], 78.125 + 31.25 * np.arange(2238))
    wanted = [[y.mean(), np.square(y).mean()] for y in
              (x[500 * i : 500 * i + HOP] for i in range(2200))]  # fmt: skip
    np.testing.assert_allclose(found["frames"][0, :2200], wanted, atol=2e-5)
    np.testing.assert_allclose(found["clip"], plain["clip"], atol=1e-6)


def test_one_vector_a_recording(encoder, tmp_path):
    sound(tmp_path / "a.wav", 3.0)
    whole = read(embed_files(encoder, [tmp_path / "a.wav"], tmp_path / "e.npz").path)
    short = read(embed_files(encoder, [tmp_path / "a.wav"], tmp_path / "f.npz", frames=False).path)
    assert sorted(short) == ["clip", "paths", "valid"]
    np.testing.assert_array_equal(short["clip"], whole["clip"])


def test_frames_that_no_disk_holds_are_refused_early(encoder, tmp_path, monkeypatch):
    sound(tmp_path / "a.wav")
    monkeypatch.setattr(inputs.Recordings, "longest", lambda self: 1e15)
    with pytest.raises(InputError, match=r"e.npz: needs about .* are free; .*--no-frames"):
        embed_files(encoder, [tmp_path / "a.wav"], tmp_path / "e.npz")
    check_disk_space(tmp_path / "e.npz", 10, "")


def test_an_archive_grows_as_numpy_would_write_it(tmp_path):
    rng = np.random.default_rng(3)
    groups = [rng.normal(size=(n, 3)).astype(np.float32) for n in (2, 0, 5)]
    column = Column(tmp_path / "x.npz", 3)
    for group in groups:
        column.append(group)
    column.append(np.ones((4, 3)))
    column.cut(7)
    with (tmp_path / "x.npz").open("wb") as file:
        write_npz(
            file,
            {
                "ragged": ColumnArray(column, [2, 0, 5]),
                "flat": ColumnArray(column),
                "text": np.array(["a", "bc"]),
            },
        )
    found = read(tmp_path / "x.npz")
    np.testing.assert_array_equal(found["flat"], np.concatenate(groups))
    padded = np.stack([np.pad(g, ((0, 5 - len(g)), (0, 0))) for g in groups])
    np.testing.assert_array_equal(found["ragged"], padded)
    assert found["text"].tolist() == ["a", "bc"]
