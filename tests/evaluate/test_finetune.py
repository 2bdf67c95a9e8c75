"""Fine-tuning: which rows train, what is kept and refused, fractions of labels, from scratch."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, f1_score

from jfreq.config import Average, Data, Experiment, Source, Validation, replace
from jfreq.config_json import to_dict
from jfreq.data.loading.label_subsets import sample
from jfreq.data.loading.pipeline import open_pipeline
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.evaluate.finetune import by_fraction, finetune, read_predictions
from jfreq.evaluate.finetune_experiment import experiment_for
from jfreq.evaluate.results import Report, joined, over_seeds
from jfreq.files import write_json
from jfreq.method import Method
from jfreq.methods.ssast import SSAST
from jfreq.methods.supervised import Classify
from jfreq.metrics import confusion, interval, wilson
from jfreq.nn.vit import ViT
from jfreq.testing import CLIP
from jfreq.train import run_folder
from jfreq.train.state import Trained
from jfreq.types import Features, InputError, TokenGrid

CLASSES = 6


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """90 tiny clips of six classes in five folds."""
    out = tmp_path_factory.mktemp("tones") / "t"
    prepare("synthetic:tones", out, n=90, seconds=0.05, workers=1, progress=False)
    return out


def experiment(tones, **changes):
    cfg = Experiment("tune", SSAST(), data=Data(path=(str(tones),)), steps=3, batch=8)
    return replace(cfg, **changes)


class Runs(list):
    """The experiments that were trained, in order."""

    checkpoint = ""
    """What each says of the checkpoint that it ends in."""


class Table(Method):
    """A classifier whose logits of every row stand in its parameters."""

    def encode(self, params, batch):
        logits = params["table"][batch["id"]]
        valid = jnp.ones((len(logits), 1), bool)
        return Features(logits[:, None], TokenGrid(1), logits, valid, logits=logits)


@pytest.fixture
def runs(monkeypatch):
    """Training that only notes the experiment; its classifier scores by fixed random numbers."""
    made = Runs()

    def train(cfg, folder):
        made.append(cfg)
        write_json(folder / run_folder.CONFIG, to_dict(cfg))
        table = np.random.default_rng(len(made)).normal(size=(90, CLASSES)).astype(np.float32)
        return Trained(replace(cfg, method=Table()), {"table": table}, 3, made.checkpoint)

    monkeypatch.setattr("jfreq.train.loop.train", train)
    return made


# ------------------------------------------------------------------ what is trained and tested


def test_every_fold_is_held_out_once(runs, tones, tmp_path):
    report = finetune(experiment(tones), tmp_path)
    shards = open_shards(tones)
    assert [cfg.data.exclude_folds for cfg in runs] == [(0,), (1,), (2,), (3,), (4,)]
    label, seen = shards.column("label"), []
    for held in range(5):
        found = read_predictions(tmp_path / f"fold{held}")
        assert set(shards.column("fold")[found.id]) == {held}
        np.testing.assert_array_equal(found.label, label[found.id])
        table = np.random.default_rng(held + 1).normal(size=(90, CLASSES)).astype(np.float32)
        np.testing.assert_array_equal(found.score, table[found.id])
        seen.extend(found.id)
    assert sorted(seen) == list(range(90))
    assert report.folds == tuple(f"fold {i}" for i in range(5))


def test_metrics_against_scikit_learn(runs, tones, tmp_path):
    report = finetune(experiment(tones), tmp_path)
    found = [read_predictions(tmp_path / f"fold{i}") for i in range(5)]
    by = {r.metric: r for r in report.results}
    assert set(by) == {"accuracy", "balanced_accuracy", "macro_f1"}
    expected = {
        "balanced_accuracy": [balanced_accuracy_score(p.label, p.score.argmax(1)) for p in found],
        "macro_f1": [
            f1_score(p.label, p.score.argmax(1), average="macro", labels=np.unique(p.label))
            for p in found
        ],
    }
    for name, values in expected.items():
        assert by[name].folds == pytest.approx(values)
        assert (by[name].mean, by[name].low, by[name].high) == pytest.approx(interval(values))
    assert by["accuracy"].n == 90 and by["accuracy"].rows == 72
    counts = np.sum([confusion(p.label, p.score) for p in found], axis=0)
    assert np.trace(counts) / 90 == pytest.approx(
        np.average(by["accuracy"].folds, weights=[len(p.id) for p in found])
    )
    np.testing.assert_array_equal(counts.sum(1), np.bincount(open_shards(tones).column("label")))


def test_a_fraction_reads_the_rows_that_the_probe_would_draw(runs, tones, tmp_path):
    cfg = experiment(tones, data__label_fraction=0.25, data__label_seed=2)
    report = finetune(cfg, tmp_path, folds=("3",))
    assert (report.results[0].fraction, report.results[0].rows) == (0.25, 18)
    assert "| 25 % (18) |" in report.to_markdown()
    (made,) = runs
    shards = open_shards(tones)
    train = np.flatnonzero(shards.column("fold") != 3)
    expected = train[sample(shards.column("label")[train], 0.25, 2)]
    np.testing.assert_array_equal(open_pipeline(made.data, batch=8, seed=0).rows, expected)
    assert report.results[0].n == np.sum(shards.column("fold") == 3), "test rows stay"


def test_a_single_split_has_an_interval_over_rows(runs, tones, tmp_path, monkeypatch):
    shards = open_shards(tones)
    split = np.where(shards.column("fold") < 3, "train", "test")
    stored, ours = type(shards)._stored, np.char.encode(split)
    monkeypatch.setattr(
        type(shards), "_stored", lambda self, n: ours if n == "split" else stored(self, n)
    )
    info = dataclasses.replace(shards.info, splits=("test", "train"))
    monkeypatch.setattr("jfreq.data.shards.reader.ShardsInfo.read", lambda folder: info)
    report = finetune(experiment(tones), tmp_path, folds=("test",))
    assert runs[0].data.split == "train" and runs[0].data.exclude_folds == ()
    found = read_predictions(tmp_path / "test")
    hits = int((found.score.argmax(1) == found.label).sum())
    r = report.results[0]
    assert (r.mean, r.low, r.high) == pytest.approx(wilson(hits, int((split == "test").sum())))
    assert "over test rows" in report.to_markdown()


def test_shares_make_a_curve_with_intervals_over_trainings(runs, tones, tmp_path):
    cfg = experiment(tones, seed=5)
    found = by_fraction(cfg, tmp_path, (1.0, 0.2), repeats=2, folds=("1",))
    assert [r.fraction for r in found.results if r.metric == "macro_f1"] == [0.2, 1.0]
    assert {(len(r.runs[0]), r.over) for r in found.results} == {(2, "seeds")}
    sampled = [(m.seed, m.data.label_seed, m.data.label_fraction) for m in runs]
    assert sampled == [(5, 0, 0.2), (6, 1, 0.2), (5, 0, 1.0), (6, 1, 1.0)]
    by_hand = joined(
        [
            over_seeds(
                [Report.read(tmp_path / fraction / str(i) / "results.json") for i in range(2)]
            )
            for fraction in ("0.2", "1")
        ]
    )
    assert by_hand == found
    by_fraction(cfg, tmp_path, (0.2, 1.0), repeats=3, folds=("1",))
    assert len(runs) == 6, "finished trainings are kept, a repeat more is added"


def test_every_share_is_checked_before_any_training(runs, tones, tmp_path):
    with pytest.raises(InputError, match=r"0\.01 of \d+ rows leaves class"):
        by_fraction(experiment(tones), tmp_path, (1.0, 0.01), folds=("1",))
    with pytest.raises(InputError, match="repeats"):
        by_fraction(experiment(tones), tmp_path, (1.0,), repeats=0)
    with pytest.raises(InputError, match="no fold 9"):
        by_fraction(experiment(tones), tmp_path, (1.0,), folds=("9",))
    for fractions in ((0.5, 0.5), ()):
        with pytest.raises(InputError, match="fractions"):
            by_fraction(experiment(tones), tmp_path, fractions)
    assert runs == []
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ validation and averages


def test_predictions_of_the_snapshots_are_averaged(tones, tmp_path, monkeypatch):
    tables = np.random.default_rng().normal(size=(2, 90, CLASSES)).astype(np.float32)

    def train(cfg, folder, on_snapshot):
        cfg = replace(cfg, method=Table())
        for table, step in zip(tables, (2, 4)):
            on_snapshot(Trained(cfg, {"table": table}, step))
        return Trained(cfg, {"table": 0 * tables[0]})

    monkeypatch.setattr("jfreq.train.loop.train", train)
    cfg = experiment(tones, steps=4, average=Average(every=0.5, of="predictions"))
    report = finetune(cfg, tmp_path, folds=("1",))
    found = read_predictions(tmp_path / "fold1")
    mean = np.mean([softmax(np.float64(t[found.id]), axis=-1) for t in tables], axis=0)
    np.testing.assert_allclose(softmax(found.score, axis=-1), mean, rtol=1e-5)
    assert report.results[0].mean == pytest.approx(np.mean(mean.argmax(1) == found.label))
    assert "predictions are averaged over 2 snapshots" in report.to_markdown()


def test_rows_for_validation_are_training_rows(runs, tones, tmp_path):
    held_out = Validation(every=1, folds=(2,))
    report = finetune(experiment(tones, validation=held_out), tmp_path, folds=("1",))
    fold = open_shards(tones).column("fold")
    assert report.results[0].rows == np.isin(fold, (0, 3, 4)).sum()
    (made,) = runs
    pipeline = open_pipeline(made.data, batch=8, seed=0, labelled=True, validation=made.validation)
    assert set(fold[pipeline.rows]) == {0, 3, 4} and set(fold[pipeline.held_out]) == {2}
    with pytest.raises(InputError, match=r"validation\.folds: fold 2 is left out of this run"):
        finetune(experiment(tones, validation=held_out), tmp_path / "all")
    with pytest.raises(InputError, match=r"optim\.plateau_figure: val/loss is a figure"):
        finetune(experiment(tones, optim__schedule="plateau"), tmp_path / "b")
    with pytest.raises(InputError, match=r"checkpoint\.best: eval/x/knn may be of test rows"):
        finetune(experiment(tones, checkpoint__best="eval/x/knn"), tmp_path / "c")
    follows = {"optim__schedule": "plateau", "optim__plateau_figure": "eval/x/knn"}
    with pytest.raises(InputError, match=r"optim\.plateau_figure: eval/x/knn may be of test"):
        finetune(experiment(tones, **follows), tmp_path / "d")
    assert len(runs) == 1


def test_the_report_names_the_checkpoint_of_every_fold(runs, tones, tmp_path):
    runs.checkpoint = "step 2 of 3 (the best by val/loss)"
    first, again = (finetune(experiment(tones), tmp_path, folds=("0", "1")) for _ in "ab")
    notes = [f"fold {i} is tested with step 2 of 3 (the best by val/loss)" for i in range(2)]
    assert first.settings["notes"][-2:] == notes and again == first
    assert len(runs) == 2 and f"Note: {notes[1]}." in first.to_markdown()


def test_the_test_split_is_no_validation(runs, halves, tmp_path):
    cfg = experiment("", data__path=halves, validation=Validation(every=1, split="held_out"))
    with pytest.raises(InputError, match=r"45 of the rows to hold out are test rows of held"):
        finetune(cfg, tmp_path, train_split="balanced_train", test_split="held_out")


# ------------------------------------------------------------------ folders


def test_finished_folds_are_kept_and_only_for_the_same_settings(runs, tones, tmp_path):
    first = finetune(experiment(tones), tmp_path, folds=("0", "1"))
    assert len(runs) == 2
    again = finetune(experiment(tones, log__every=3, mesh__data=1), tmp_path, folds=("1", "0"))
    assert len(runs) == 2
    assert again.results == first.results
    finetune(experiment(tones, data__label_fraction=0.5), tmp_path, folds=("0",))
    assert len(runs) == 3, "another fraction is another training; the run folder itself refuses it"
    (tmp_path / "fold0" / "predictions.npz").unlink()
    finetune(experiment(tones, data__label_fraction=0.5), tmp_path, folds=("0",))
    assert len(runs) == 4


def test_scratch_and_pre_trained_do_not_share_a_folder(runs, tones, tmp_path):
    report = finetune(experiment(tones), tmp_path, folds=("0",))
    assert report.results[0].features == "from scratch"
    other = experiment(tones, checkpoint__init_from=(Source("runs/a"),))
    with pytest.raises(InputError, match="fold0: was trained from scratch, not from runs/a"):
        finetune(other, tmp_path, folds=("1", "0"))
    assert len(runs) == 1, "refused before anything is trained"
    report = finetune(other, tmp_path / "other", folds=("0",))
    assert report.results[0].features == "fine-tuned"


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Two sets of 45 clips with the same six classes: splits ``balanced_train`` and ``held_out``,
    fifteen subjects each."""
    root, found = tmp_path_factory.mktemp("halves"), []
    rng = np.random.default_rng(0)
    for name in ("balanced_train", "held_out"):
        lines = ["path,label,split,subject"]
        (root / name).mkdir()
        for i in range(45):
            soundfile.write(root / name / f"{i}.wav", 0.1 * rng.normal(size=800), 16000)
            lines.append(f"{i}.wav,c{i % CLASSES},{name},{name}{i // 3}")
        (root / name / "index.csv").write_text("\n".join(lines) + "\n")
        prepare(str(root / name), root / f"{name}.s", workers=1, progress=False)
        found.append(str(root / f"{name}.s"))
    return tuple(found)


def test_splits_of_two_sets(runs, halves, tmp_path):
    cfg = experiment("", data__path=halves)
    report = finetune(cfg, tmp_path, train_split="balanced_train", test_split="held_out")
    (made,) = runs
    assert made.data.path == halves and made.data.split == "balanced_train"
    pipeline = open_pipeline(made.data, batch=8, seed=0, labelled=True)
    np.testing.assert_array_equal(pipeline.rows, np.arange(45))
    found = read_predictions(tmp_path / "held_out")
    np.testing.assert_array_equal(found.id, np.arange(45, 90))
    np.testing.assert_array_equal(found.label, np.arange(45) % CLASSES)
    assert report.folds == ("held_out",) and report.results[0].n == 45
    by_fraction(
        cfg,
        tmp_path / "few",
        (0.5,),
        repeats=1,
        train_split="balanced_train",
        test_split="held_out",
    )
    assert runs[1].data.label_fraction == 0.5


def test_folds_that_are_made_are_never_trained_on(runs, halves, tmp_path):
    cfg = experiment("", data__path=halves, data__make_folds=3)
    report = finetune(cfg, tmp_path)
    subject = open_shards(halves).column("subject")
    for i, made in enumerate(runs):
        assert made.data.exclude_folds == (i,)
        trained = open_pipeline(made.data, batch=8, seed=0, labelled=True).rows
        tested = read_predictions(tmp_path / f"fold{i}").id
        assert sorted([*trained, *tested]) == list(range(90))
        assert not set(subject[trained]) & set(subject[tested])
    assert report.settings["fold_by"] == "subject"


def test_sets_of_other_classes_are_refused_together(runs, halves, tones, tmp_path):
    with pytest.raises(InputError, match=r"no labels together: .*t has no class 'c0'.*; prepare"):
        finetune(experiment("", data__path=(halves[0], str(tones))), tmp_path)
    assert not runs


@pytest.mark.parametrize(
    ("changes", "folds", "message"),
    [
        ({"data__label_fraction": 0.01}, (), r"0\.01 of \d+ rows leaves class"),
        ({}, ("9",), "no fold 9"),
        ({}, ("test",), "fine-tuning needs two folds or a train and a test split"),
    ],
)
def test_refused_before_training(runs, tones, tmp_path, changes, folds, message):
    with pytest.raises(InputError, match=message):
        finetune(experiment(tones, **changes), tmp_path / "w", folds=folds)
    assert not runs and not (tmp_path / "w").exists()


def test_predictions_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"predictions\.npz: no such file"):
        read_predictions(tmp_path)


# ------------------------------------------------------------------ where it starts from


def test_a_run_or_the_name_of_an_experiment(tmp_path, monkeypatch):
    """The same experiment, but for what it starts from."""
    bound = SSAST(encoder=ViT(width=32, depth=1, heads=2)).bind(CLIP)
    path = tmp_path / "recipe.py"
    path.write_text(
        "from jfreq.config import Experiment\nfrom jfreq.methods.ssast import SSAST\n"
        "from jfreq.nn.vit import ViT\n"
        "mine = Experiment('mine', SSAST(encoder=ViT(width=32, depth=1, heads=2)))\n"
    )
    scratch = experiment_for(f"{path}:mine")
    assert not scratch.checkpoint.init_from
    assert isinstance(scratch.method, Classify)

    trained = Trained(Experiment("mine", bound), {})
    monkeypatch.setattr("jfreq.evaluate.finetune_experiment.load_trained", lambda _: trained)
    tuned = experiment_for(tmp_path)
    assert tuned.checkpoint.init_from == (Source(str(tmp_path)),)
    same = replace(tuned, checkpoint__init_from=())
    assert same.method.bind(CLIP) == scratch.method.bind(CLIP)
    assert replace(same, method=scratch.method) == scratch
    with pytest.raises(InputError, match=r"ssast_nan: no such run or bundle, and .*'ssast_nano'"):
        experiment_for("ssast_nan")


@pytest.mark.slow
def test_a_real_run_on_half_of_the_labels(experiment, tmp_path):
    """One step of a small classifier; its folder refuses another fraction afterwards."""
    method = Classify(backbone=experiment.method)
    cfg = replace(experiment, method=method, steps=1, data__label_fraction=0.5)
    report = finetune(cfg, tmp_path, folds=("0",))
    assert 0 <= report.results[0].mean <= 1
    assert report.results[0].rows == pytest.approx(
        0.5 * (open_shards(cfg.data.path).column("fold") != 0).sum(), abs=0.5
    )
    again = finetune(replace(cfg, data__label_fraction=0.5), tmp_path, folds=("0",))
    assert again == report
    with pytest.raises(InputError, match=r"holds another experiment, .* data\.label_fraction"):
        finetune(replace(cfg, data__label_fraction=1.0), tmp_path, folds=("0",))
