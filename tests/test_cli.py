"""The command line: what users type, and one clear line with exit code 2 where it is wrong."""

import errno
import json
import shutil
import signal
import struct
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import soundfile

from jfreq import cli
from jfreq.config import to_dict
from jfreq.data.records import open_shards
from jfreq.export.bundle import save_bundle
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.testing import CLIP, bound_method
from jfreq.train import NotFinite, Stopped

SMALL = [
    "--method.passes",
    "1",
    "--method.encoder.width",
    "32",
    "--method.encoder.depth",
    "1",
    "--method.encoder.heads",
    "2",
    "--log.no-tensorboard",
]


@pytest.fixture
def refused(capsys):
    """``refused(words)``: the one line on stderr of a command that exits with code 2."""

    def call(*words) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert stop.value.code == 2, err
        assert out == ""
        *before, line = err.splitlines()
        assert line.startswith("jfreq: error: ") and err.endswith("\n"), err
        # Long commands may have told their progress; nothing else speaks.
        assert not any("rror" in other for other in before), err
        return line.removeprefix("jfreq: error: ")

    return call


@pytest.fixture
def said(capsys):
    """``said(words)``: standard output of a command that succeeds."""

    def call(*words) -> str:
        capsys.readouterr()
        code = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


@pytest.fixture
def training(shards, tmp_path):
    """A training command that could run, in an empty folder."""
    return ["train", "ssast_nano", "--data", shards, "--workdir", tmp_path / "run", *SMALL]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle with the encoder of an untrained method."""
    from jfreq import recipes
    from jfreq.config import replace

    config, method = bound_method(SSAST(encoder=ViT(width=32, depth=1, heads=2)))
    params = jax.jit(lambda key: method.init(key, {}))(jax.random.key(0))
    experiment = replace(recipes.load("ssast_nano"), method=config)
    return save_bundle(tmp_path_factory.mktemp("use") / "encoder", experiment=experiment,
                       params={"trunk": params["trunk"]})  # fmt: skip


@pytest.fixture
def sound(tmp_path):
    """``sound(name, samples)``: a float file at 16 kHz."""

    def write(name, x, rate=16000):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.asarray(x, np.float32), rate, subtype="FLOAT")
        return path

    return write


def zero_rate(path):
    """A sound WAV file whose header says 0 Hz."""
    data = bytearray(path.read_bytes())
    at = data.index(b"fmt ") + 12
    data[at : at + 4] = struct.pack("<I", 0)
    path.write_bytes(data)
    return path


# ------------------------------------------------------------------ help

COMMANDS = sorted(cli.COMMANDS)


@pytest.mark.parametrize("command", ["", "data", *COMMANDS])
def test_help_of_every_command(said, command):
    text = said(*command.split(), "--help")
    assert text.startswith(f"usage: jfreq {command}".rstrip())
    if not command:
        assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["train", "ssast_nano"], ["--workdir", "--optim.lr", "--method.encoder.depth"]),
        (["config", "show", "ast_nano"], ["--data", "--mesh.fsdp", "--method.head.mixup"]),
        (["data", "prepare"], ["--source", "--strict", "--drop-labels", "--hop-seconds"]),
        (["probe"], ["--kinds", "--folds", "--pool", "--fractions", "--at-least-one"]),
        (["finetune", "ssast_nano"], ["--fractions", "--data.label-seed", "--method.head.noise"]),
    ],
)
def test_help_names_its_options(said, words, options):
    text = said(*words, "--help")
    assert all(option in text for option in options)


def test_help_is_light():
    """The usage appears without the libraries of training, and soon."""
    code = (
        "import sys; from jfreq import cli\ntry: cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'tensorflow', 'librosa', 'sklearn', 'matplotlib', 'soundfile', 'orbax'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for words in ([], ["data", "prepare", "--help"], ["train", "ssast_nano", "--help"]):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True,
                              timeout=60)  # fmt: skip
        assert done.stderr.strip() == "[]", words
        assert "usage: jfreq" in done.stdout
        assert time.perf_counter() - began < 20


def test_version(said):
    import jfreq

    assert said("--version").strip() == jfreq.__version__


# ------------------------------------------------------------------ names and options


def test_unknown_words_get_a_hint(refused, tmp_path):
    assert "did you mean 'train'" in refused("trian", "ssast_nano")
    assert "did you mean 'data prepare'" in refused("data", "prepar", "x")
    assert "did you mean 'params'" in refused("config", "param", "ssast_nano")
    line = refused("train", "sast_tiny", "--workdir", tmp_path)
    assert "unknown experiment 'sast_tiny' (did you mean 'ssast_tiny'?)" in line
    assert "no such recipe file" in refused("train", f"{tmp_path}/mine.py:x")
    assert "NAME is one of: ast_audioset_base" in refused("train")
    assert "RUN is a run folder or bundle" in refused("finetune")


@pytest.mark.parametrize(
    "options",
    [
        ["--steps", "many"],
        ["--method.cluster-mode", "sideways"],
        ["--optim.speed", "3"],
        ["--workdir"],
    ],
)
def test_options_that_cannot_be_read(training, options, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in [*training, *options]])
    assert stop.value.code == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "steps: must be 1 or more, got 0"),
        (["--optim.lr", "-1"], "optim.lr: must be positive"),
        (["--batch", "16", "--accumulate", "3"], "accumulate: must divide batch 16, got 3"),
        (["--method.encoder.heads", "5"], "encoder.width: 32 must be a multiple of heads 5"),
        (["--mesh.data", "-1", "--mesh.fsdp", "-1"], "mesh: only one size may be -1"),
    ],
)
def test_values_that_make_no_experiment(training, refused, options, message):
    assert message in refused(*training, *options)


# ------------------------------------------------------------------ train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method.mask", "64"], "mask: 64 of 8 x 8 (frequency x time) = 64 tokens cannot be"),
        (["--method.mask-kind", "time", "--method.mask", "20"], "20 is not a multiple, take 16"),
        (["--mesh.data", "8", "--batch", "12"], "take a multiple of 8"),
        (["--mesh.data", "3"], "mesh: data=3, fsdp=1, tensor=1 does not match 8 devices"),
        (["--data.exclude-folds", "9"], "fold: no rows of fold 9; the set has: 0, 1, 2, 3, 4"),
        (["--data.split", "trian"], "no rows of split 'trian'; the set has: none"),
        (["--method.modality", "gyro"], "no signal 'gyro' in the data; it has: audio"),
        (["--method.patch", "200", "16"], "200 bins"),
    ],
)
def test_settings_that_do_not_fit_the_data(training, refused, tmp_path, options, message):
    assert message in refused(*training, *options)
    assert not (tmp_path / "run").exists(), "refused before anything is written"


def test_no_data_missing_data_unfinished_data(refused, tmp_path):
    train = ["train", "ssast_nano", "--workdir", tmp_path / "run", "--data"]
    assert "no shards given; pass --data FOLDER" in refused(*train[:-1])
    line = refused(*train, tmp_path / "none")
    assert f"{tmp_path}/none: no such folder; make shards with `jfreq data prepare`" in line
    (tmp_path / "empty").mkdir()
    assert "empty is not a finished set of shards" in refused(*train, tmp_path / "empty")
    assert "not a finished set" in refused("data", "info", tmp_path / "empty")
    assert "no such folder" in refused("data", "peek", tmp_path / "none")


def test_half_written_and_truncated_shards(refused, shards, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(shards, half)
    (half / "metadata.json").unlink()
    train = ["train", "ssast_nano", "--workdir", tmp_path / "run", "--data", half]
    assert "`jfreq data prepare` on it, it goes on where it stopped" in refused(*train)

    shutil.copy(shards / "metadata.json", half)
    (shard,) = half.glob("*array_record*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    for command in (["data", "peek", half], [*train, *SMALL]):
        line = refused(*command)
        assert str(shard) in line and "damaged or cut short; delete the folder" in line
    shard.unlink()
    assert "is missing; prepare the set again" in refused(*train)
    (half / "metadata.json").write_text("{")
    assert "not JSON" in refused(*train)


def test_clips_shorter_than_a_patch(refused, said, tmp_path):
    short = tmp_path / "short"
    said("data", "prepare", "synthetic:tones", "--out", short, "--n", "4", "--seconds", "0.01")
    line = refused("train", "ssast_nano", "--data", short, "--workdir", tmp_path / "run")
    assert "clips of 160 samples (0.01 s) of 'audio' are shorter than one patch" in line


def test_a_folder_belongs_to_one_experiment(training, refused, said, shards, tmp_path):
    """One run that works, and what its folder refuses afterwards."""
    training += ["--steps", "1", "--batch", "8"]
    said(*training)
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()
    line = refused(*training, "--optim.lr", "1e-2")
    assert "holds another experiment, which differs in optim.lr" in line
    assert "seed" in refused(*training, "--seed", "7")
    other = tmp_path / "other"
    said("data", "prepare", "synthetic:tones", "--out", other, "--n", "8", "--seconds", "1.295")
    assert "data.path" in refused(*training, "--data", other)
    said(*training)  # the same command again: nothing to do

    probe = ["probe", tmp_path / "run", "--data"]
    motion = tmp_path / "motion"
    said("data", "prepare", "synthetic:motion", "--out", motion, "--n", "5", "--seconds", "1")
    assert "no signal 'audio' in the data; it has: acc, gyro" in refused(*probe, motion)
    assert "no fold 9; the data have fold 0" in refused(*probe, shards, "--folds", "9")
    curve = [*probe, shards, "--no-baselines", "--kinds", "knn", "--fractions"]
    assert "0.01 of 24 rows leaves class" in refused(*curve, "0.01", "--folds", "0")
    text = said(*curve, "1", "0.5", "--draws", "2", "--out", tmp_path / "few")
    assert "of means over 2 draws" in text and "| 50 % (" in text
    assert len(json.loads((tmp_path / "few" / "fractions.json").read_text())["results"]) == 6
    assert "<svg" in (tmp_path / "few" / "fractions.svg").read_text()
    tune = ["finetune", tmp_path / "run", "--data", shards, "--workdir", tmp_path / "tuned"]
    assert "no fold 9; the data have fold 0" in refused(*tune, "--folds", "9")
    assert "0.01 of 24 rows leaves class" in refused(
        *tune, "--folds", "0", "--fractions", "1", "0.01"
    )
    tune[1] = "ssast_nan"
    assert "no such run or bundle, and unknown experiment" in refused(*tune)
    encoder = tmp_path / "encoder"
    assert str(encoder) in said("export", tmp_path / "run", "--out", encoder)
    assert json.loads((encoder / "config.json").read_text())["experiment"]["name"] == "ssast_nano"
    assert "exists and is not a bundle" in refused(
        "export", tmp_path / "run", "--out", tmp_path / "motion"
    )


def test_a_run_without_a_checkpoint(refused, training, tmp_path, shards):
    run = tmp_path / "run"
    run.mkdir()
    for command in (["probe", run, "--data", shards], ["export", run, "--out", tmp_path / "e"],
                    ["finetune", run, "--data", shards, "--workdir", tmp_path / "t"],
                    ["embed", run, "a.wav", "--out", tmp_path / "e.npz"]):  # fmt: skip
        assert "not a bundle, it has no config.json" in refused(*command)
    from jfreq import recipes

    (run / "config.json").write_text(json.dumps(to_dict(recipes.load("ssast_nano"))))
    (run / "checkpoints").mkdir()
    line = refused("export", run, "--out", tmp_path / "e")
    assert "no readable checkpoint; let `jfreq train` run longer" in line
    assert "no such folder" in refused("export", tmp_path / "none", "--out", tmp_path / "e")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Stopped(5, signal.SIGTERM), 143, "stopped at step 5; the same command continues"),
        (Stopped(5, signal.SIGINT), 130, "stopped at step 5"),
        (NotFinite("loss nan at step 3"), 1, "loss nan at step 3"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            2,
            "runs/a: cannot be written",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(training, monkeypatch, capsys, error, code, message):
    def train(experiment, workdir):
        raise error

    monkeypatch.setattr("jfreq.train.train", train)
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in training])
    assert stop.value.code == code
    err = capsys.readouterr().err
    assert message in err and err.count("\n") <= 1


def test_internal_errors_are_not_hidden(training, monkeypatch):
    monkeypatch.setattr("jfreq.train.train", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main([str(word) for word in training])


# ------------------------------------------------------------------ embed


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


def test_files_that_cannot_be_embedded(bundle, refused, sound, tmp_path):
    good, out = sound("good.wav", np.ones(800) * 0.1), tmp_path / "out.npz"
    (tmp_path / "text.wav").write_text("not a sound")
    bad = {
        tmp_path / "none.wav": "no such file",
        tmp_path / "text.wav": "not a readable sound file",
        sound("nan.wav", [0.1, np.nan, 0.2]): "holds NaN or infinite samples",
        sound("empty.wav", np.zeros(0)): "holds no samples",
        zero_rate(sound("zero.wav", np.ones(800))): "",
    }
    for path, reason in bad.items():
        line = refused("embed", bundle, good, path, "--out", out)
        assert line.startswith(f"{path}: {reason}")
        assert not out.exists()
    assert "wanted the name of an .npz file" in refused("embed", bundle, good, "--out", tmp_path)
    line = refused("embed", bundle, good, "--out", good / "below.npz")
    assert f"{good}: cannot be written" in line
    assert "no files" in refused("embed", bundle, "--out", out)


def test_damaged_bundles(bundle, refused, sound, tmp_path):
    good = sound("good.wav", np.ones(800) * 0.1)
    for name, damage, message in (
        ("model.safetensors", lambda b: b[: len(b) // 2], "truncated or corrupt"),
        ("model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "checksum differs"),
        ("config.json", lambda b: b[:40], "not readable as JSON"),
        ("config.json", lambda b: b.replace(b'"format": 1', b'"format": 99'), "upgrade jfreq"),
        ("config.json", lambda b: b.replace(b'"mask_kind"', b'"mask_knd"'), "mask_knd: no such"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(bundle, copy)
        changed = damage((copy / name).read_bytes())
        assert changed != (copy / name).read_bytes()
        (copy / name).write_bytes(changed)
        assert message in refused("embed", copy, good, "--out", tmp_path / "out.npz")
        shutil.rmtree(copy)


# ------------------------------------------------------------------ prepare


def test_sources_that_cannot_be_prepared(refused, sound, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert "does not exist" in refused("data", "prepare", tmp_path / "none", *out)
    (tmp_path / "empty").mkdir()
    line = refused("data", "prepare", "mine", "--source", tmp_path / "empty", *out)
    assert "holds no index.csv, no audio" in line
    assert "did you mean 'tones'" in refused("data", "prepare", "synthetic:tone", *out)
    folder = sound("set/a.wav", np.ones(800)).parent
    index = folder / "index.csv"
    index.write_text("paths,label\na.wav,x\n")
    line = refused("data", "prepare", folder, *out)
    assert "has no column 'path' (did you mean 'paths'?)" in line
    index.write_text("path,label\na.wav,cat\n")
    line = refused("data", "prepare", folder, *out, "--labels", "cats", "dogs")
    assert f"{index}:2: label 'cat' is not in the list of labels (did you mean 'cats'?)" in line
    assert "seconds: must be positive" in refused(
        "data", "prepare", "synthetic:tones", *out, "--n", "4", "--seconds", "-1"
    )
    assert not (tmp_path / "out" / "metadata.json").exists()


def test_bad_files_are_named_and_skipped_or_refused(refused, said, sound, tmp_path):
    rng = np.random.default_rng()
    for label in ("left", "right"):
        for i in range(3):
            sound(f"set/{label}{i}.wav", rng.normal(0, 0.1, 8000))
    folder = tmp_path / "set"
    for label in ("left", "right"):
        (folder / label).mkdir()
        for path in folder.glob(f"{label}?.wav"):
            path.rename(folder / label / path.name)
    shutil.move(sound("set/nan.wav", [0.1] * 99 + [np.nan]), folder / "left")
    shutil.move(zero_rate(sound("set/zero.wav", np.ones(800))), folder / "left")
    (folder / "right" / "text.wav").write_text("not a sound")
    sound("set/right2.wav", []).rename(folder / "right" / "empty.wav")

    line = refused("data", "prepare", folder, "--out", tmp_path / "strict", "--strict")
    assert "mend or remove it, or prepare without strict" in line
    assert any(name in line for name in ("nan.wav", "zero.wav", "text.wav", "empty.wav"))
    assert not (tmp_path / "strict" / "metadata.json").exists()

    text = said("data", "prepare", folder, "--out", tmp_path / "kept")
    assert "labels: left 3, right 3" in text and "skipped: 4" in text
    named = (tmp_path / "kept" / "skipped.txt").read_text()
    assert all(name in named for name in ("nan.wav", "zero.wav", "text.wav", "empty.wav"))


def test_prepare_options_reach_the_shards(said, refused, tmp_path):
    """Rate, window, hop, channels, labels of a multi-channel set, through to training's view."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "set"
    folder.mkdir()
    x = rng.integers(-9999, 9999, (8000, 2)).astype(np.int16)
    for name in ("a", "b", "c"):
        soundfile.write(folder / f"{name}.wav", x, 8000)
    (folder / "index.csv").write_text(
        "path,label,fold\na.wav,cat,1\nb.wav,dog,2\nc.wav,other_1,2\n"
    )
    out = tmp_path / "out"
    text = said(
        "data", "prepare", "mine", "--source", folder, "--out", out, "--rate", "8000", "--seconds",
        "0.5", "--hop-seconds", "0.25", "--mix", "keep", "--labels", "dog", "cat",
        "--drop-labels", "other*", "--workers", "1", "--kind", "index",
    )  # fmt: skip
    assert text.startswith("mine: 6 rows")
    assert "audio: 4000 samples (0.5 s) x 2, 8000 Hz, int16" in text
    assert "labels: dog 3, cat 3" in text and "folds: 1 (3), 2 (3)" in text
    np.testing.assert_array_equal(open_shards(out)[1]["audio"], x[2000:6000])
    assert "another folder or delete it" in refused("data", "prepare", folder, "--out", out)
    assert "cat" in said("data", "peek", out, "--n", "1")


def test_prepare_audioset_with_its_own_lists(said, refused, sound, tmp_path):
    sound("clips/abc.wav", np.ones(1600) * 0.1)
    segments, names = tmp_path / "eval_segments.csv", tmp_path / "class_labels_indices.csv"
    segments.write_text('# YTID, start_seconds, end_seconds, positive_labels\nabc, 0.0, 10.0, "/m/1,/m/2"\n')  # noqa: E501  # fmt: skip
    names.write_text('index,mid,display_name\n0,/m/1,"Speech"\n1,/m/2,"Dog, bark"\n')
    words = ["data", "prepare", "audioset", "--source", segments, "--out", tmp_path / "out"]
    assert "clips: name the folder" in refused(*words)
    text = said(*words, "--clips", tmp_path / "clips", "--labels", names)
    assert "labels: Speech 1, Dog, bark 1" in text


@pytest.mark.data
def test_prepare_a_real_index(said, real_data, tmp_path):
    """Spoken digits: files, folds and speakers as their index says."""
    source, folder = real_data / "fsdd", tmp_path / "fsdd"
    folder.mkdir()
    head, *lines = (source / "index.csv").read_text().splitlines()
    lines = lines[:: len(lines) // 12]
    (folder / "index.csv").write_text("\n".join([head, *lines]) + "\n")
    for line in lines:
        path = line.split(",")[0]
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, folder / path)
    out = tmp_path / "shards"
    text = said("data", "prepare", "fsdd", "--source", folder, "--out", out, "--strict")
    shards = open_shards(out)
    assert text.startswith(f"fsdd: {len(lines)} rows") and "16000 Hz, int16" in text
    columns = dict(zip(head.split(","), zip(*(line.split(",") for line in lines))))
    assert shards.column("path").tolist() == list(columns["path"])
    assert shards.column("fold").tolist() == [int(f) for f in columns["fold"]]
    assert shards.column("subject").tolist() == list(columns["subject"])
    names = [shards.info.labels[i] for i in shards.column("label")]
    assert names == list(columns["label"])
    assert (shards.column("length") == [
        -(-int(n) * 16000 // int(sr)) for n, sr in zip(columns["n_samples"], columns["sr"])
    ]).all()  # fmt: skip


# ------------------------------------------------------------------ config


def test_config_show_is_the_bound_config(said, shards):
    found = json.loads(said("config", "show", "ssast_nano", "--data", shards, "--seed", "3"))
    assert (found["name"], found["seed"]) == ("ssast_nano", 3)
    assert found["method"]["signals"][0]["samples"] == 20720
    assert (found["method"]["frames"], found["method"]["mask"]) == (128, 50)


def test_config_diff_names_what_changes(said):
    text = said("config", "diff", "ssast_audioset_base", "--optim.lr", "3e-4")
    lines = dict(line.split(": ", 1) for line in text.splitlines())
    assert lines["optim.lr"] == "0.0001 -> 0.0003"
    assert "method.signals" in lines
    assert "method.mask" not in lines and "batch" not in lines


def test_config_params_counts_what_training_makes(said):
    text = said("config", "params", "ssast_nano", "--seconds", "1.295").splitlines()
    _, method = bound_method(SSAST(encoder=ViT(width=96, depth=4, heads=3)), CLIP)
    params = jax.eval_shape(lambda key: method.init(key, {}), jax.random.key(0))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert text[-1].split() == ["total", f"{total:,}"]
    counts = [int(line.split()[1].replace(",", "")) for line in text[:-1]]
    assert sum(counts) == total and len(counts) == len(jax.tree.leaves(params))


def test_config_shardings_follow_the_mesh(said, refused):
    whole = said("config", "shardings", "ssast_base")
    assert "blocks/qkv/kernel" in whole and "0.00% of the parameters are sharded" in whole
    split = said("config", "shardings", "ssast_base", "--mesh.fsdp", "4", "--mesh.tensor", "2")
    (line,) = (line for line in split.splitlines() if "blocks/qkv/kernel" in line)
    assert line.endswith("(None, 'fsdp', None, 'tensor', None)")
    share = float(split.splitlines()[-1].split(": ")[1].split("%")[0])
    assert share > 98
    assert "no such folder" in refused("config", "show", "ssast_nano", "--data", "none")
