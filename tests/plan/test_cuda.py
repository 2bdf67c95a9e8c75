"""GPUs that are not here: their description, and the compiler where its plugin is."""

import json
import os
import subprocess
import sys

import pytest

from jfreq.plan import cuda, topology

needs_plugin = pytest.mark.skipif(not cuda.installed(), reason=f"needs {cuda.PLUGIN}")


@pytest.mark.parametrize(("name", "tflops"), [("a100", 19.5), ("h100", 67.0), ("h200", 67.0)])
def test_dies_make_the_float32_rate_of_the_data_sheet(name, tflops):
    """Two operations of every unit in every cycle (NVIDIA's data sheets of the SXM forms)."""
    die = cuda.DIES[name]
    assert 2 * die.cores * die.lanes * die.clock / 1e3 == pytest.approx(tflops, rel=0.01)
    assert 2**20 <= die.cache < 2**27 and die.shared < 2**18


def test_every_gpu_is_described():
    names = {h.name for h in topology.HARDWARE.values() if h.platform == "gpu"}
    assert set(cuda.DIES) == names


def test_a_description_has_the_memory_that_a_plan_counts_with():
    hardware = topology.parse("h200:8").hardware
    text = cuda._target(cuda.DIES["h200"], hardware.memory, hardware.bandwidth)
    assert "device_memory_size: 141000000000\n" in text
    assert "memory_bandwidth: 4800000000000\n" in text
    assert "shared_memory_per_block_optin: 232448\n" in text, "227 KiB"


@pytest.mark.parametrize(
    ("text", "counts"),
    [("h100:8", (1, 1, 8)), ("h100:4", (1, 1, 4)), ("h100:64", (1, 8, 8)), ("2xh100:8", (2, 1, 8)),
     ("4xa100:16", (4, 2, 8)), ("h100:12", (1, 1, 12))],
)  # fmt: skip
def test_hosts_have_eight(monkeypatch, text, counts):
    asked = []
    monkeypatch.setattr(cuda, "installed", lambda: True)
    monkeypatch.setattr(cuda, "devices", lambda name, counts, *rates: asked.append((name, counts)))
    topology.devices(topology.parse(text))
    assert asked == [(topology.parse(text).hardware.name, counts)]


def test_without_the_plugin_cpu_stands_in(monkeypatch):
    found = []
    for there in (True, False):
        monkeypatch.setattr(cuda, "installed", lambda there=there: there)
        found.append([topology.compiler(topology.parse(t)) for t in ("h100:8", "v5e:2x2", "cpu:2")])
    assert found == [["gpu", "tpu", "cpu"], ["cpu", "tpu", "cpu"]]


@needs_plugin
@pytest.mark.slow
def test_a_step_is_compiled_for_gpus(tmp_path):
    """In a process of its own: sums over the GPUs of two hosts, and memory beside the state."""
    path = tmp_path / "plan.json"
    words = "plan ssast_nano --topology 2xh100:2 --mesh.fsdp 2 --seconds 1.3 --batch 16".split()
    command = [sys.executable, "-P", "-m", "jfreq", *words, "--json", str(path)]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, timeout=500, text=True, env=env)
    assert done.returncode == 0, done.stderr
    plan = json.loads(path.read_text())
    assert plan["compiler"] == "gpu" and "XLA:GPU" in done.stdout
    assert plan["memory"]["temporaries"] > 0 and not plan["gathers"]
    assert {c["slices"] for c in plan["collectives"]} == {1, 2}
    assert plan["traffic"] > plan["memory"]["arguments"]
