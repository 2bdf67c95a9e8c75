"""``jfreq finetune --recipe``: published settings, changes on top of them, and what is refused."""

import pytest

from jfreq.config import Experiment
from jfreq.evaluate import finetune
from jfreq.evaluate.finetune_experiment import tuned_by
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT


class Stopped(Exception):
    """Raised in place of the training, with its experiment."""


@pytest.fixture
def asked(monkeypatch, tmp_path, said):
    """The experiment that a command would train."""

    def stop(experiment, workdir, **rows):
        raise Stopped(experiment)

    monkeypatch.setattr(finetune, "finetune", stop)

    def call(*words):
        with pytest.raises(Stopped) as stopped:
            said("finetune", *words, "--data", "shards", "--workdir", tmp_path / "w")
        return stopped.value.args[0]

    return call


@pytest.mark.parametrize(("pool", "family"), [("special", "AST"), ("mean", "SSAST")])
def test_an_ast_without_a_classifier_is_tuned_as_one(pool, family, capsys):
    encoder = SSAST(encoder=ViT(16, 1, 2), special_tokens=2, pool=pool)
    found = tuned_by("finetune_esc50", Experiment("encoder", encoder))
    assert found.steps == {"AST": 850, "SSAST": 1650}[family]
    assert f"the published settings of {family}\n" in capsys.readouterr().err


def test_published_settings_and_changes_to_them(asked, tmp_path):
    plain, found = asked("ssast_nano"), asked("ssast_nano", "--recipe", "finetune_esc50")
    assert (plain.optim.kind, found.optim.kind) == ("adamw", "adam_l2")
    assert (found.name, found.batch, found.steps) == ("ssast_nano_finetune_esc50", 48, 1650)
    assert found.method.backbone.encoder == plain.method.backbone.encoder
    slow = asked("eat_nano", "--recipe=finetune_esc50", "--optim.lr", "1e-6", "--steps", "7",
                 "--method.head.no-roll")  # fmt: skip
    assert (slow.optim.lr, slow.steps, slow.method.head.roll) == (1e-6, 7, False)
    assert slow.method.head.label_smoothing == 0.1
    path = tmp_path / "mine.py"
    path.write_text(
        "from jfreq.config import replace\ndef mine(e):\n    return replace(e, optim__clip=0.5)\n"
    )
    assert asked("ssast_nano", "--recipe", f"{path}:mine").optim.clip == 0.5


def test_recipes_that_are_refused(refused, said, tmp_path):
    tune = ["finetune", "ssast_nano", "--data", "shards", "--workdir", tmp_path / "w", "--recipe"]
    line = refused(*tune, "finetune_esc")
    assert "no 'finetune_esc' (did you mean 'finetune_esc50'?); there are: finetune_" in line
    assert "no such file; a recipe of your own" in refused(*tune, tmp_path / "none.py:mine")
    assert "--recipe: needs a value" in refused(*tune)
    assert "--recipe: is given 2 times" in refused(*tune, "finetune_esc50", "--recipe=x")
    tune[1] = "focal_hapt"
    line = refused(*tune, "finetune_esc50")
    assert "is known for the transformers of SSAST, AST, EAT and Audio-MAE, not for FOCAL" in line
    text = said("finetune", "--help")
    assert "--recipe takes FILE.py:NAME or one of\nfinetune_audioset, finetune_as20k" in text
    assert "Published settings by their name" in said("finetune", "ssast_nano", "--help")
