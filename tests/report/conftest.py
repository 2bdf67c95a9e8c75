"""A trained run, a grid, and a page taken apart."""

import json
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import methods, recipes
from jfreq.ablate.grid import Ablation, change
from jfreq.ablate.table import summarise
from jfreq.config import replace
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.monitoring.metrics_writer import MetricsWriter
from jfreq.nn.cnn1d import Conv1d
from jfreq.nn.vit import ViT
from jfreq.train import checkpoint, run_folder
from jfreq.train.state import State

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Every tag with its attributes, the text, and whether all tags are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.raw, self.tags, self.open, self.words = text, [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="session")
def parse():
    return Page


@pytest.fixture(scope="session")
def experiment(shards):
    return replace(
        recipes.load("ssast_nano"),
        method__encoder=ViT(width=32, depth=2, heads=2, unroll=True),
        method__passes=1,
        data__path=(str(shards),),
        steps=4,
        batch=8,
        checkpoint__every=2,
        log__every=1,
        log__writers=(),
    )


@pytest.fixture(scope="session")
def run(experiment, shards, tmp_path_factory):
    return finished(experiment, shards, tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="session")
def motion_run(tmp_path_factory):
    """The same of an encoder of raw series."""
    folder = tmp_path_factory.mktemp("motion")
    prepare("synthetic:motion", folder / "shards", n=8, seconds=1.3, workers=1, progress=False)
    cfg = replace(
        recipes.load("cnn_csl_hapt"), method__encoder=Conv1d(widths=(8,), kernels=(9,)),
        data__path=(str(folder / "shards"),), data__split=None, steps=4,
    )  # fmt: skip
    return finished(cfg, folder / "shards", folder / "run")


@pytest.fixture(scope="session")
def sensors_run(tmp_path_factory):
    """The same of a masked autoencoder over the spectra of a microphone and a vibration sensor."""
    folder = tmp_path_factory.mktemp("sensors")
    prepare("synthetic:machines", folder / "shards", n=6, seconds=0.1, workers=1, progress=False)
    tiny = ViT(width=16, depth=1, heads=2)
    cfg = replace(
        recipes.load("phymask_nano"), method__trunk__encoder=tiny, method__trunk__decoder=tiny,
        data__path=(str(folder / "shards"),), data__split=None, steps=4,
    )  # fmt: skip
    return finished(cfg, folder / "shards", folder / "run")


def finished(experiment, shards, folder):
    """A run of four steps as `jfreq train` leaves it, without the time that training takes."""
    data = open_shards(shards)
    experiment = methods.bind(experiment, data.spec)
    method = experiment.method
    params = jax.jit(method.init)(jax.random.key(0))
    run_folder.lock_run_folder(folder, experiment)
    saves = checkpoint.Checkpoints(folder)
    for step in (2, 4):
        meta = {"step": step, "manifest": data.manifest_hash}
        saves.save(State(jnp.int32(step), params, {}, {}), step, meta)
    saves.wait()
    saves.close()
    writer = MetricsWriter(folder)
    for step in range(1, 5):
        writer.write({
            "step": step, "loss": 6.1234 / step, "accuracy": 0.1 * step, "lr": 1e-4,
            "grad_norm": 2.5, "step_time": 0.5, "data_wait": 0.01, "mfu": None,
            "examples_per_s": 16.789, "tflops": 0.1, "memory_mb": None,
        })  # fmt: skip
    writer.close()
    return folder


@pytest.fixture
def grid(experiment, tmp_path):
    """A folder as `jfreq ablate` leaves it: three cells, one of them failed once, with losses."""
    ablation = Ablation(
        name="masks", question="Does the <mask> matter?", decides="Only large effects.",
        base=experiment,
        factors={"kind": {"cluster": change(), "random": change(method__mask_kind="random"),
                          "time": change(method__mask_kind="time")}},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(3):
        for i, kind in enumerate(("cluster", "random", "time")):
            row = {
                "name": kind,
                "levels": {"kind": kind},
                "seed": seed,
                "fold": seed + 1,
                "changes": {"method.mask_kind": kind},
                "run": f"{kind}/{seed}",
                "minutes": 0.5,
            }
            score = 0.5 + 0.1 * i + 0.01 * float(rng.normal())
            row |= {"status": "done", "error": None, "values": {"accuracy": score}}
            if (seed, kind) == (2, "time"):
                row |= {"status": "failed", "error": "InputError: no <room>", "values": {}}
            rows.append(row)
            folder = tmp_path / row["run"]
            folder.mkdir(parents=True)
            losses = [{"step": s, "loss": 5.0 / s + i} for s in range(1, 6)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in losses))
    found = summarise(ablation, "tones", rows, {"device": "cpu", "cores": 2})
    (tmp_path / "grid.json").write_text(json.dumps(found.to_dict()))
    return tmp_path
