"""Processes that stand for the hosts of a pod: slices, one that dies, is silent, or never comes."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from jfreq import distributed, sharding
from jfreq.config import Mesh, replace
from jfreq.config_json import to_dict
from jfreq.monitoring.metrics_writer import read_metrics
from jfreq.testing import finish_processes, start_processes
from jfreq.train.loop import train
from jfreq.types import InputError

LOST = "another one has died or no longer answers"


def wait_for(done, limit_s=120.0):
    end = time.monotonic() + limit_s
    while not done() and time.monotonic() < end:
        time.sleep(0.1)
    assert done()


def lines(err):
    return [line for line in err.splitlines() if line.startswith("jfreq: error")]


@pytest.mark.slow
def test_four_hosts_of_two_slices_train_like_one_until_one_dies(experiment, tmp_path):
    run = tmp_path / "run"
    experiment = replace(experiment, mesh=Mesh(2, 2, 1, slices=2), optim__schedule="constant",
                         steps=100_000, log__every=2, checkpoint__every=10_000)  # fmt: skip
    (tmp_path / "recipe.py").write_text(
        "import json\nfrom jfreq.methods import experiment_from_dict\n"
        f"e = experiment_from_dict(json.loads({json.dumps(to_dict(experiment))!r}))\n"
    )
    words = ["-m", "jfreq", "train", f"{tmp_path}/recipe.py:test", "--workdir", str(run)]
    hosts = start_processes(words, count=4, devices=1)
    try:
        wait_for(lambda: len(read_metrics(run)) > 1 or hosts[0].poll() is not None)
    finally:
        hosts[2].kill()
    began = time.monotonic()
    done = finish_processes(hosts, limit_s=100)
    assert time.monotonic() - began < 60
    for index in (0, 1, 3):
        assert done[index].code in (1, -signal.SIGABRT), done[index]
        (line,) = lines(done[index].err)
        assert (
            line.startswith(f"jfreq: error: process {index} of 4 ends, because ") and LOST in line
        )
        assert line.endswith("it continues from the last checkpoint")
    train(replace(experiment, mesh=Mesh(8, 1, 1), steps=4), tmp_path / "one")
    for a, b in zip(read_metrics(run)[:2], read_metrics(tmp_path / "one"), strict=True):
        assert a["step"] == b["step"]
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


SUMS = """
import sys, time, jax, numpy as np
from jfreq import distributed, sharding
distributed.start()
mesh = sharding.make_mesh((-1, 1, 1))
total = jax.jit(lambda x: x.sum())
for step in range(100000):
    x = sharding.to_global({"x": np.ones(1, np.float32)}, mesh)["x"]
    assert float(total(x)) == jax.process_count()
    print(step, flush=True)
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_a_host_that_is_silent_stops_the_others(monkeypatch):
    monkeypatch.setenv(distributed.LOST_AFTER, "5")
    hosts = start_processes(["-c", SUMS], count=3, devices=1)
    try:
        for host in hosts:
            assert host.stdout is not None
            assert "0\n" in iter(host.stdout.readline, "")
        hosts[1].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        others = finish_processes([hosts[0], hosts[2]], limit_s=60)
        assert time.monotonic() - began < 40
    finally:
        hosts[1].kill()
        hosts[1].communicate()
    for index, done in zip((0, 2), others):
        assert done.code != 0
        (line,) = lines(done.err)
        assert (
            line.startswith(f"jfreq: error: process {index} of 3 ends, because ") and LOST in line
        )


@pytest.mark.slow
def test_a_host_that_never_comes(monkeypatch):
    monkeypatch.setenv(distributed.JOIN_TIMEOUT, "3")
    hosts = start_processes(["-c", SUMS], count=3, devices=1)
    hosts[1].kill()
    for done in (d for i, d in enumerate(finish_processes(hosts, limit_s=90)) if i != 1):
        assert done.code != 0 and not done.out
        (line,) = lines(done.err)
        assert "the 3 processes did not find each other within 3 s" in line
        assert distributed.JOIN_TIMEOUT in line


NAMES = (distributed.ADDRESS, distributed.COUNT, distributed.INDEX)
SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "1",
         "SLURM_LOCALID": "0", "SLURM_NTASKS": "2"}  # fmt: skip
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1",
          "MEGASCALE_COORDINATOR_ADDRESS": "h0:8080"}  # fmt: skip


@pytest.mark.parametrize(
    ("env", "match"),
    [
        (dict(zip(NAMES[1:], ("2", "0"))), "not JAX_COORDINATOR_ADDRESS"),
        (dict(zip(NAMES[:2], ("h:1", "2"))), "not JAX_PROCESS_ID"),
        ({NAMES[0]: "h:1", NAMES[2]: "0"}, "not JAX_NUM_PROCESSES"),
        ({NAMES[0]: "h:1"}, "not JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
        (dict(zip(NAMES, ("h:1", "two", "0"))), "JAX_NUM_PROCESSES must be a whole number"),
        (dict(zip(NAMES, ("h:1", "2", "2"))), "JAX_PROCESS_ID=2 is not in 0 to"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, "4 tasks, but this process is none of them"),
        ({"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "0"},
         "MEGASCALE_COORDINATOR_ADDRESS not set"),
        ({**SLURM, distributed.JOIN_TIMEOUT: "soon"}, "JFREQ_JOIN_TIMEOUT_S must be a whole"),
    ],
)  # fmt: skip
def test_half_an_environment_is_refused(env, match):
    with pytest.raises(InputError, match=match):
        distributed.start(env)


class Words:
    """In place of a second process."""

    def __init__(self):
        self.line = ""

    def say(self, line):
        self.line = line

    def take_back(self):
        self.line = ""


@pytest.fixture
def words(monkeypatch):
    words = Words()
    monkeypatch.setattr(distributed, "_last_words", lambda: words)
    return words


@pytest.mark.parametrize(
    ("env", "count", "given"),
    [
        ({}, None, {}),
        ({"SLURM_JOB_ID": "7"}, None, {}),
        ({**SLURM, "SLURM_NTASKS": "1"}, None, {}),
        (SLURM, 2, {}),
        ({**SLURM, NAMES[0]: "h:1"}, 2, {}),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, 3, {}),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, 2, {}),
        ({"TPU_WORKER_HOSTNAMES": "t0"}, None, {}),
        ({"TPU_PROCESS_ADDRESSES": "t0:1,t1:1", "TPU_WORKER_HOSTNAMES": "t0"}, 2, {}),
        ({**SLICES, "TPU_WORKER_HOSTNAMES": "t0,t1"}, 4, {}),
        (SLICES, 2, {}),
        (dict(zip(NAMES, ("h:1", "4", "3"))), 4,
         {"coordinator_address": "h:1", "num_processes": 4, "process_id": 3}),
    ],
)  # fmt: skip
def test_who_is_asked_to_join(env, count, given, monkeypatch, words):
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **args: calls.append(args))
    monkeypatch.setattr("jax.process_count", lambda: count)
    distributed.start(env)
    joined = [{k: v for k, v in c.items() if not k.endswith(("timeout", "seconds"))} for c in calls]
    assert joined == ([] if count is None else [given])
    assert bool(words.line) == (count is not None)


def test_a_launcher_that_jax_cannot_read_is_an_error(monkeypatch, words):
    """Here no TPU is found, although the variables name several hosts."""
    with pytest.raises(InputError, match=r"TPU_WORKER_HOSTNAMES: names 2 processes, .*cannot join"):
        distributed.start({"TPU_WORKER_HOSTNAMES": "t0,t1"})
    monkeypatch.setattr("jax.distributed.initialize", lambda **_: None)
    with pytest.raises(InputError, match="names 2 processes, but 1 have joined"):
        distributed.start({"TPU_WORKER_HOSTNAMES": "t0,t1"})
    assert not words.line


def test_a_tpu_without_metadata_says_that_it_is_alone(monkeypatch, words, caplog):
    monkeypatch.setattr(distributed, "_has_tpu", lambda env: True)
    distributed.start({})
    assert "this host trains alone" in caplog.text and not words.line
    assert not jax.distributed.is_initialized()


class Device:
    """A TPU of a slice, as JAX describes it."""

    platform, device_kind = "cpu", "stand-in"

    def __init__(self, index, per_slice):
        self.id, self.process_index, self.slice_index = index, index // 2, index // per_slice

    def __repr__(self):
        return f"{self.slice_index}/{self.id}"


def test_data_runs_over_the_slices_first():
    mesh = sharding.make_mesh((4, 2, 1), slices=2)
    ids = np.vectorize(lambda device: device.id)(mesh.devices)
    assert set(ids[:2].flat) == {0, 1, 2, 3} and mesh.axis_names == sharding.AXES
    named = [Device(i, per_slice=4) for i in (6, 0, 2, 4, 1, 3, 5, 7)]
    placed = sharding.make_mesh((2, 4, 1), named).devices
    assert [[device.slice_index for device in row.flat] for row in placed] == [[0] * 4, [1] * 4]


@pytest.mark.parametrize(
    ("sizes", "slices", "match"),
    [
        ((8, 1, 1), 3, "mesh.slices: 8 devices cannot be divided into 3 slices of one size"),
        ((2, 4, 1), 4, "data=2 cannot be split over 4 slices"),
    ],
)
def test_slices_that_do_not_divide(sizes, slices, match):
    with pytest.raises(InputError, match=match):
        sharding.make_mesh(sizes, slices=slices)
    named = [Device(i, per_slice=4) for i in range(8)]
    with pytest.raises(InputError, match=f"is {slices}, but JAX reports 2"):
        sharding.make_mesh(sizes, named, slices=slices)


def test_the_last_words_of_a_process_that_is_killed():
    say = (
        "from jfreq.last_words import LastWords as L\nw = L()\nw.say('one')\nw.say('two\\nlines')\n"
    )
    end = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    killed, ended = finish_processes(
        [start_processes(["-c", text], count=1)[0] for text in (say + end, say + "w.take_back()")]
    )
    assert (killed.code, killed.err) == (-signal.SIGKILL, "two lines\n")
    assert (ended.code, ended.err) == (0, "")


def test_jax_is_alone_here():
    assert jax.process_count() == 1
    distributed.end_in_error(1)  # or this test would not pass
