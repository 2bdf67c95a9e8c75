"""The page of a run: everything in it comes from the run, and it says what is missing."""

import base64
import io
import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jfreq import cli
from jfreq.config import Eval, replace
from jfreq.config_json import to_dict
from jfreq.data.shards.reader import open_shards
from jfreq.report import figures, probes, write_page
from jfreq.report.collect import read_run
from jfreq.report.examples import collect_examples, wav_bytes
from jfreq.report.run import _unseen
from jfreq.report.training import training
from jfreq.train import checkpoint, run_folder
from jfreq.types import InputError


@pytest.fixture(scope="module")
def page(run, shards, parse, tmp_path_factory):
    """The page of the finished run, with a probe's results beside it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(run, folder)
    rows = [
        {"features": f, "kind": "ridge", "metric": "accuracy", "mean": m, "low": m - 0.1,
         "high": None if f == "untrained" else m + 0.1, "folds": [m, m], "n": 8}
        for f, m in (("trained", 0.625), ("untrained", 0.5))
    ]  # fmt: skip
    value = {"data": "tones", "folds": ["fold 1"], "results": rows, "title": "Probe",
             "settings": {"majority_class": 0.25, "interval": "two folds"}}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(value))
    few = [{**row, "mean": row["mean"] * f, "fraction": f, "rows": 8 * f}
           for f in (1.0, 0.1) for row in rows]  # fmt: skip
    (folder / "fractions.json").write_text(json.dumps({**value, "results": few}))
    return parse(Path(write_page(folder)).read_text())


@pytest.fixture(scope="module")
def looked(run, shards):
    return collect_examples(checkpoint.load_run(run), open_shards(shards), count=3)


def copy(run, tmp_path, **changes):
    """The run again, its config changed."""
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    config = to_dict(replace(run_folder.read_config(folder), **changes))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def read(path, parse):
    return parse(path.read_text())


def test_a_finished_run_has_every_section_and_no_notice(page):
    titles = page.text
    sections = {attrs.get("id") for _, attrs in page.tags}
    for title in ("Training", "Examples", "Masks", "Probe", "Few labels", "Blocks", "Confusion",
                  "Settings"):  # fmt: skip
        assert f"s-{title.lower().replace(' ', '-')}" in sections, title
    assert not [a for a in page.all("p") if a.get("class") == "notice"]
    assert "loss · last 1.531, lowest 1.531, highest 6.123" in titles
    assert "Clips per second · last 16.79" in titles
    assert "time in steps 0.0 min" in titles and "checkpoints at step 2, 4" in titles
    assert "utilisation" not in titles  # never measured
    assert "Step 4 of 4" in titles
    assert "0.625 0.525 to 0.725" in titles  # with its interval
    assert "0.500 0.4" not in titles  # an unknown bound is no interval
    assert "accuracy of 0.250" in titles
    assert "clip vector" in titles and "block 2" in titles
    assert "features probe 10 % 100 %" in titles  # fractions ascend
    (picture,) = [a for a in page.all("svg") if "by labels" in a.get("aria-label", "")]
    assert "trained 0.062 to 0.625; untrained 0.050 to 0.500" in picture["aria-label"]


def test_what_is_measured_while_it_trains_has_its_own_curves(run, parse):
    found = read_run(run)
    rows = [
        {
            "step": s,
            "loss": 1.0,
            "eval/tones/knn": s / 10,
            "eval/tones/seconds": 1.0,
            "goodput": 0.5,
        }
        for s in (1, 2)
    ]
    cfg = replace(found.experiment, evals=(Eval("tones", "a/b"),), checkpoint__best="val/loss")
    section = training(found._replace(rows=rows, experiment=cfg))
    assert section is not None
    said = parse(f"<p>{section.body}</p>").text
    assert "eval/tones/knn · last 0.2, lowest 0.1, highest 0.2" in said
    assert "eval/tones/...: clip vectors of at most 512 rows of b;" in said
    assert "best val/loss is kept" in said and "goodput since the first start 50.0%" in said
    assert "seconds" not in said.replace("Seconds", "")


def test_players_play_the_clips(page, shards):
    """The samples of the WAVs are those of the rows that the titles name, scaled."""
    sources = [attrs["src"] for attrs in page.all("audio")]
    rows = [int(w.rsplit("row ", 1)[1]) for w in page.words if "· row " in w]
    assert len(sources) == len(rows) == 4
    data = open_shards(shards).read(rows)
    assert len(set(data["label"].tolist())) == min(4, len(open_shards(shards).info.labels))
    for i, source in enumerate(sources):
        kind, content = source.split(",", 1)
        assert kind == "data:audio/wav;base64"
        with wave.open(io.BytesIO(base64.b64decode(content))) as file:
            assert (file.getframerate(), file.getnchannels()) == (16000, 1)
            heard = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
        truth = data["audio"][i, :, 0].astype(float)
        assert len(heard) == len(truth)
        assert np.corrcoef(heard, truth)[0, 1] > 0.9999
        assert np.abs(heard).max() == pytest.approx(0.9 * 32767, abs=1)


def test_slower_signals_are_plotted(motion_run, parse):
    page = read(write_page(motion_run, rows=0), parse)
    plots = [a["aria-label"] for a in page.all("svg") if "channels" in a.get("aria-label", "")]
    assert len(plots) == 8 and not page.all("audio")
    assert len(set(plots)) == 8 and all(", 3 channels, 1.3 s" in label for label in plots)
    assert "plotted, a line for each channel" in page.text and "upwards" not in page.text


def test_planes_of_several_sensors_say_whose_bins_they_are(sensors_run, parse):
    """0.1 s in 8 intervals: 100 bins of sound at 16 kHz, 40 of vibration at 6.4 kHz above them."""
    page = read(write_page(sensors_run, rows=0), parse)
    said = "from the bottom: audio bins 0 to 99, vibration bins 100 to 139."
    assert page.text.count(said) == 2  # under the examples and under the masks
    pictures = [a for a in page.all("img") if a["src"].startswith("data:image/png")]
    sizes = {Image.open(io.BytesIO(base64.b64decode(a["src"].split(",")[1]))).size
             for a in pictures}  # fmt: skip
    assert sizes == {(8, 140)}
    assert len(pictures) == 3 * 4 and "fraction masked" in page.raw


def test_silence_is_no_loud_noise():
    with wave.open(io.BytesIO(wav_bytes(np.zeros(100, np.int16), 8000.0))) as file:
        assert not np.frombuffer(file.readframes(100), "<i2").any()


def test_masked_pictures_hide_what_the_mask_hides(looked):
    for example in looked.examples:
        png = figures.spectrogram_png(example.spectrogram, (-1, 1), example.masked)
        picture = Image.open(io.BytesIO(png))
        assert picture.size == example.spectrogram.shape
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        np.testing.assert_array_equal(alpha[::-1].T == 0, example.masked)


def test_pictures_have_low_frequencies_below_and_time_to_the_right():
    values = np.zeros((3, 4))
    values[2, 0] = 1.0
    picture = Image.open(io.BytesIO(figures.spectrogram_png(values, (0, 1)))).convert("RGB")
    pixels = np.asarray(picture).sum(-1)
    assert np.unravel_index(pixels.argmax(), pixels.shape) == (3, 2)


def test_masks_are_counted_exactly(looked):
    """Every mask masks the configured count, so the mean fraction is exact however few are sampled;
    cells of one token are masked together, and clusters prefer none by more than chance."""
    fraction = looked.fraction
    assert fraction.shape == (128, 128)
    assert fraction.mean() == pytest.approx(50 / 64, rel=1e-5)
    tokens = fraction.reshape(8, 16, 8, 16)
    assert np.ptp(tokens, axis=(1, 3)).max() == 0
    error = np.sqrt(50 / 64 * 14 / 64 / looked.masks)
    assert np.abs(tokens[:, 0, :, 0] - 50 / 64).max() < 5 * error


def test_explained_variance_of_known_drawings(looked):
    from jfreq.report.examples import _planes
    from jfreq.types import Reconstruction

    spec = np.random.default_rng(0).normal(size=(1, 6, 4, 1)).astype(np.float32)
    spec[:, 4:] = 0.5  # padding
    masked = np.ones((1, 6, 4), bool)

    def explained(reconstruction):
        return _planes(Reconstruction(spec, masked, reconstruction), 0)[3]  # type: ignore[arg-type]

    assert explained(spec) == 1
    inside = spec[:, :4]
    assert explained(np.full_like(spec, inside.mean())) == pytest.approx(0, abs=1e-6)
    halfway = (spec + inside.mean()) / 2
    assert explained(halfway) == pytest.approx(0.75, abs=1e-6)


def test_folds_left_out_are_shown_and_probed(run, shards, tmp_path, parse):
    folder = copy(run, tmp_path, data__exclude_folds=(2,))
    page = read(write_page(folder), parse)
    fold = open_shards(shards).column("fold")
    rows = [int(w.rsplit("row ", 1)[1]) for w in page.words if "· row " in w]
    assert len(rows) == 4 and set(fold[rows]) == {2}
    assert "of folds that training left out" in page.text
    assert "tested on fold 2, which training left out" in page.text


def test_folds_of_other_data_are_not_those_left_out(run, shards, tmp_path):
    folder = copy(run, tmp_path, data__exclude_folds=(2, 9))
    data = open_shards(shards)
    assert _unseen(read_run(folder), data) == (2,)
    data.manifest_hash = "another"
    assert _unseen(read_run(folder), data) == ()
    for path in (folder / "checkpoints").rglob("meta/metadata"):
        path.write_text("{")
    assert read_run(folder).manifest is None


def test_an_unfinished_run_of_other_data_shows_what_is_there(run, shards, tmp_path, parse):
    folder = copy(run, tmp_path, steps=8, data__path=(str(tmp_path / "gone"),))
    page = read(write_page(folder, data=[shards], rows=0), parse)
    assert "unfinished: step 4 of 8; the last checkpoint is of step 4" in page.text
    assert page.all("audio") and page.all("svg")
    assert "s-blocks" not in {attrs.get("id") for _, attrs in page.tags}


def test_an_empty_run_says_so(run, tmp_path, parse):
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(run / "config.json", folder)
    page = read(write_page(folder), parse)
    assert "This run is empty" in page.text
    assert "method.mask_kind" in page.text
    assert not page.all("svg") and not page.all("audio")


def test_what_is_broken_is_named_and_the_rest_is_shown(run, tmp_path, parse):
    folder = copy(run, tmp_path)
    (folder / "results.json").write_text('{"results": [{"mean": "much"}]}')
    (folder / "fractions.json").write_text('{"data": "tones", "results": []}')
    (folder / "not_finite_3.json").write_text("{}")
    for step in (folder / "checkpoints").iterdir():
        shutil.rmtree(step)
        step.mkdir()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": NaN, "step_ti')
    page = read(write_page(folder), parse)
    for said in ("results.json is not a table of `jfreq probe`", "fractions.json is not a table",
                 "not_finite_3.json", "no checkpoint of [2, 4] is whole"):  # fmt: skip
        assert said in page.text
    assert len(page.all("svg")) >= 4


def test_a_run_that_goes_on_from_another(run, tmp_path, parse):
    """Its time is that of its own updates; what it comes from may be damaged."""
    folder = copy(run, tmp_path, data__path=())
    assert "time in steps 0.0 min" in read(write_page(folder, rows=0), parse).text
    rows = [{"step": step, "loss": 1.0, "step_time": 60.0} for step in (1003, 1004)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    note = folder / "resumed_from.json"
    note.write_text('{"run": "runs/<a>", "step": 1002}')
    text = read(write_page(folder, rows=0), parse).text
    assert "goes on from step 1,002 of runs/<a>" in text and "time in steps 2.0 min" in text
    note.write_text("{}")
    text = read(write_page(folder, rows=0), parse).text
    assert "Where this run comes from is not known" in text and "lacks step or run" in text


def test_a_step_that_is_asked_for(run, tmp_path, parse):
    page = read(write_page(run, rows=0, step=2, out=tmp_path / "page.html"), parse)
    assert "What needs the encoder is shown for step 2 of 4." in page.text
    with pytest.raises(InputError, match=r"no checkpoint of step 3, only of \[2, 4\]"):
        write_page(run, rows=0, step=3, out=tmp_path / "page.html")


def test_losses_that_are_not_finite_are_left_out(run, tmp_path, parse):
    folder = copy(run, tmp_path, data__path=())
    rows = [{"step": s, "loss": v, "lost": float("nan")} for s, v in ((1, 3.0), (2, float("nan")))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = read(write_page(folder, rows=0), parse).text
    assert "last 3, lowest 3, highest 3" in text
    assert "lost · never finite" in text.replace("  ", " ")


def test_shards_that_are_gone_are_no_error_and_wrong_ones_are(run, tmp_path, parse):
    folder = copy(run, tmp_path, data__path=(str(tmp_path / "gone"),))
    text = read(write_page(folder, rows=0), parse).text
    assert "Examples, masks and the probe of the blocks are left out" in text
    assert "gone" in text and "--data" in text
    with pytest.raises(InputError, match="nowhere"):
        write_page(folder, data=[tmp_path / "nowhere"], out=tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


def test_names_cannot_become_markup(run, tmp_path, parse):
    name = "<script>alert('1')</script> & \"more\""
    folder = copy(run, tmp_path, name=name, data__path=())
    page = read(write_page(folder), parse)
    assert name in page.text
    assert not page.all("script")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: None, "no such folder"),
        (lambda f: f.write_text(""), "is a file"),
        (lambda f: f.mkdir(), "neither a run"),
        (lambda f: [f.mkdir(), (f / "config.json").write_text("{")], "no JSON"),
        (lambda f: [f.mkdir(), (f / "config.json").write_text("{}"),
                    (f / "model.safetensors").write_text("")], "is a bundle, which has no metrics"),
    ],
)  # fmt: skip
def test_no_run_is_one_clear_line(make, said, tmp_path, capsys):
    make(tmp_path / "x")
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(tmp_path / "x")])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.startswith("jfreq: error: ") and err.count("\n") == 1
    assert said in err and str(tmp_path / "x") in err


def test_the_command_prints_where_the_page_is(run, tmp_path, capsys):
    out = tmp_path / "a" / "page.html"
    run = copy(run, tmp_path, data__path=())
    cli.main(["report", str(run), "--rows", "0", "--out", str(out)])
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text().startswith("<!doctype html>")
    with pytest.raises(InputError, match="is a folder"):
        write_page(run, out=tmp_path)


def test_a_quick_probe_of_a_set_without_folds_makes_its_own(shards):
    data = open_shards(shards)
    assert probes._with_folds(data) == (data, "")
    found, words = probes._with_folds(data.with_folds(np.full(len(data), -1), ""))
    subject, fold = data.column("subject"), found.column("fold")
    assert words == ", folds of whole subjects that were made for this probe"
    assert len(found.info.folds) >= 2
    assert {len(set(fold[subject == s])) for s in set(subject)} == {1}
