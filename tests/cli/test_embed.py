"""``jfreq embed``: files and bundles that can be used, and those that cannot."""

import numpy as np

from jfreq import cli


def test_embedding_files(bundle, said, sound, tmp_path):
    rng = np.random.default_rng()
    files = [
        sound("a.wav", rng.normal(0, 0.1, 40000)),
        sound("b.wav", rng.normal(0, 0.1, 99), 8000),
    ]
    out = tmp_path / "out.npz"
    assert str(out) in said("embed", bundle, *files, "--out", out)
    with np.load(out) as found:
        assert found["clip"].shape == (2, 32)
        assert np.isfinite(found["clip"]).all()
        assert found["paths"].tolist() == [str(f) for f in files]


def test_frames_closer_together(bundle, refused, sound, caplog, tmp_path):
    good, out = sound("good.wav", np.ones(40_000) * 0.1), tmp_path / "out.npz"
    cli.main(["embed", str(bundle), str(good), "--out", str(out), "--frame-ms", "50"])
    assert "frame_ms 50: takes 40 ms" in caplog.text  # on stderr, where nobody handles it
    with np.load(out) as found:
        np.testing.assert_allclose(np.diff(found["times_ms"]), 40)
        assert found["valid"] == [(40_000 - 1400) // 640 + 1]
    for step, reason in ((0, "frame-ms"), (-40, "frame-ms"), (1000, "a frame every 160 ms")):
        line = refused("embed", bundle, good, "--out", tmp_path / "no.npz", f"--frame-ms={step}")
        assert reason in line, line


def test_files_that_cannot_be_embedded(bundle, refused, sound, zero_rate, tmp_path):
    good, out = sound("good.wav", np.ones(800) * 0.1), tmp_path / "out.npz"
    (tmp_path / "text.wav").write_text("not a sound")
    bad = {
        tmp_path / "none.wav": "no such file",
        tmp_path / "text.wav": "is no sound that can be read",
        sound("nan.wav", [0.1, np.nan, 0.2]): "holds NaN or infinite samples",
        sound("empty.wav", np.zeros(0)): "holds no samples",
        zero_rate(sound("zero.wav", np.ones(800))): "",
    }
    for path, reason in bad.items():
        for words in ((path,), (good, path, "--strict")):
            line = refused("embed", bundle, *words, "--out", out)
            assert line.startswith(f"{path}: {reason}")
            assert not out.exists()
    assert "must be the name of a file that ends in .npz" in refused(
        "embed", bundle, good, "--out", tmp_path
    )
    line = refused("embed", bundle, good, "--out", good / "below.npz")
    assert f"{good}: cannot be written" in line
    assert "no recordings" in refused("embed", bundle, "--out", out)


def test_bad_files_of_a_folder_are_named_and_skipped(bundle, said, sound, capsys, tmp_path):
    good = sound("set/day 2/good.wav", np.ones(800) * 0.1)
    (tmp_path / "set" / "text.wav").write_text("not a sound")
    cli.main(["embed", str(bundle), str(tmp_path / "set"), "--out", str(tmp_path / "e.npz")])
    out, err = capsys.readouterr()
    assert out == (f"{tmp_path}/e.npz: 1 recording, 1 skipped (see {tmp_path}/e.npz.skipped.txt)\n")
    assert f"jfreq: skipped {tmp_path}/set/text.wav: is no sound that can be read" in err
    with np.load(tmp_path / "e.npz") as found:
        assert found["paths"].tolist() == [str(good)] and "frames" in found
    said("embed", bundle, good, "--out", tmp_path / "e.npz", "--no-frames")
    with np.load(tmp_path / "e.npz") as found:
        assert "frames" not in found
    assert not (tmp_path / "e.npz.skipped.txt").exists()
