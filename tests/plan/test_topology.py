"""Hardware by name, meshes that fit it, and what is refused."""

import importlib.util
import math
import os
import subprocess
import sys

import pytest

from jfreq import sharding
from jfreq.config import Mesh
from jfreq.monitoring import flops
from jfreq.plan import topology
from jfreq.types import InputError

SLICES = [f"{h.name}:{shape}" for h in topology.HARDWARE.values() for shape in h.shapes]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason=f"needs {topology.LIBTPU} (684 MB)"
)


@pytest.mark.parametrize(
    ("text", "devices", "platform"),
    [("v5e:4x4", 16, "tpu"), ("v5e:16x16", 256, "tpu"), ("v5p:4x4x4", 64, "tpu"),
     ("v4:2x2x2", 8, "tpu"), ("h100:24", 24, "gpu"), ("cpu:3", 3, "cpu")],
)  # fmt: skip
def test_parse(text, devices, platform):
    found = topology.parse(text)
    assert (found.text, found.devices, found.hardware.platform) == (text, devices, platform)
    assert found.tpu == (platform == "tpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v5x:4x4", r"no hardware 'v5x' \(did you mean 'v5\w'\?\); there is: v4:\S+, v5e:4x4"),
        ("", "no hardware ''"),
        ("v5e", "no slice '' of v5e; there are: 1x1, 2x2, 2x4, 4x4"),
        ("v5e:4x4x4", "no slice '4x4x4' of v5e"),
        ("v5e:32x32", "no slice '32x32' of v5e"),
        ("v5p:4x4", r"no slice '4x4' of v5p \(did you mean '[\dx]+'\?\); there are: 2x2x1"),
        ("h100:0", "from 1 to 4096, for instance h100:8"),
        ("h100:2x4", "give the number of devices"),
        ("cpu:99999", "from 1 to 4096"),
        ("0xv5e:4x4", "number of slices from 1 to 256, for instance 2xv5e:4x4"),
        ("-2xh100:8", "number of slices from 1 to 256"),
        ("999xv5e:4x4", "number of slices from 1 to 256"),
        ("1024xh100:8", "number of slices from 1 to 256"),
        ("200xh100:64", "from 1 to 4096"),
        ("2xv4:2x2x2", "network between slices of v4 is not published"),
        ("2xv5e:4x5", "no slice '4x5' of v5e"),
        ("2xv5x:4x4", "no hardware 'v5x'"),
    ],
)
def test_what_does_not_exist(text, said):
    with pytest.raises(InputError, match=f"^topology: .*{said}"):
        topology.parse(text)


@pytest.mark.parametrize(
    "mesh", [Mesh(16, 1, 1), Mesh(-1, 1, 1), Mesh(2, -1, 4), Mesh(2, 4, 2), Mesh(1, 16, -1)]
)
def test_meshes_that_fit(mesh):
    topology.check_mesh(topology.parse("v5e:4x4"), mesh)


@pytest.mark.parametrize(
    "mesh", [Mesh(3, 4, 1), Mesh(4, 4, 4), Mesh(-1, 3, 1), Mesh(-1, 32, 1), Mesh(1, 1, 1)]
)
def test_a_mesh_that_does_not_fit_names_those_that_would(mesh):
    with pytest.raises(InputError, match=r"^mesh: .* does not fit the 16 devices") as bad:
        topology.check_mesh(topology.parse("v5e:4x4"), mesh)
    offers = str(bad.value).split("would: ")[1].split("; ")
    sizes = [[int(word.split("=")[1]) for word in offer.split()] for offer in offers]
    assert len(sizes) == 6 and len(set(map(tuple, sizes))) == 6
    for found in sizes:
        assert math.prod(found) == 16
        data, fsdp, tensor = found
        topology.check_mesh(topology.parse("v5e:4x4"), Mesh(data, fsdp, tensor))


def test_the_nearest_mesh_comes_first():
    with pytest.raises(InputError, match="would: data=4 fsdp=4 tensor=1;"):
        topology.check_mesh(topology.parse("v5e:4x4"), Mesh(3, 4, 1))


@pytest.mark.parametrize("text", ["2xv5e:4x4", "4xv5p:2x2x2", "2xh100:8", "3xcpu:2"])
def test_several_slices(text):
    """So many times what one has, links as inside of one."""
    count, one = int(text[0]), topology.parse(text[2:])
    found = topology.parse(text)
    assert (found.slices, found.shape, found.hardware) == (count, one.shape, one.hardware)
    assert found.devices == count * one.devices
    assert (found.closed, found.sends) == (one.closed, one.sends)
    topology.check_mesh(found, Mesh(-1, 1, 1))
    topology.check_mesh(found, Mesh(-1, 1, 1, slices=count))


@pytest.mark.parametrize(
    ("text", "slices", "said"),
    [
        ("v5e:4x4", 2, "is 2, but v5e:4x4 is 1 slice; .* plan for --topology 2xv5e:4x4$"),
        ("2xv5e:4x4", 3, "is 3, but 2xv5e:4x4 is 2 slices; .* plan for --topology 3xv5e:4x4$"),
        ("2xh100:8", 1, "is 1, but 2xh100:8 is 2 slices; .* plan for --topology h100:8$"),
    ],
)
def test_slices_of_the_mesh_are_those_of_the_topology(text, slices, said):
    with pytest.raises(InputError, match=f"^mesh.slices: {said}"):
        topology.check_mesh(topology.parse(text), Mesh(-1, 1, 1, slices=slices))


def test_only_meshes_whose_data_runs_over_the_slices_are_offered():
    with pytest.raises(InputError, match="would: ") as bad:
        topology.check_mesh(topology.parse("4xcpu:2"), Mesh(3, 1, 1))
    offers = str(bad.value).split("would: ")[1].split("; ")
    assert sorted(offers) == [
        "data=4 fsdp=1 tensor=2", "data=4 fsdp=2 tensor=1", "data=8 fsdp=1 tensor=1",
    ]  # fmt: skip


def test_rings():
    """Links close to a ring over a whole v5e pod and over cubes of 4 (Cloud TPU documentation)."""
    closed = {t: topology.parse(t).closed for t in ("v5e:4x4", "v5e:8x16", "v5p:2x4x4", "v4:2x2x1")}
    assert not any(closed.values())
    assert topology.parse("v5e:16x16").closed and topology.parse("v5p:4x4x8").closed
    assert topology.parse("v5e:16x16").sends == 2 * topology.parse("v5e:4x4").sends


def test_beyond_a_host_gpus_use_the_network():
    assert topology.parse("h100:16").sends < topology.parse("h100:8").sends / 5


def test_figures_are_of_one_chip_and_plausible():
    """Data sheets: 100 to 600 FLOP for each byte of memory traffic, 10 to 200 GiB."""
    for hardware in topology.HARDWARE.values():
        if hardware.name != "cpu":
            assert hardware.peak and 100 < hardware.peak / hardware.bandwidth < 600
            assert 10 < hardware.memory / 2**30 < 200
            assert hardware.network < hardware.link / 7, "slower between slices than inside"
    assert topology.HARDWARE["cpu"].peak is None


@needs_libtpu
@pytest.mark.parametrize("text", SLICES)
def test_the_compiler_knows_every_slice(text):
    """As many devices of the named kind, and every mesh over them."""
    place = topology.parse(text)
    topology.host(place)
    devices = topology.devices(place)
    assert len(devices) == place.devices
    assert flops.peak_tflops(devices[0].device_kind) == flops.peak_tflops(place.hardware.kind)
    mesh = sharding.make_mesh((-1, math.gcd(place.devices, 8), 1), devices)
    assert mesh.size == place.devices


@needs_libtpu
@pytest.mark.parametrize("text", ["2xv5e:2x2", "3xv5p:2x2x1", "2xv6e:1x1"])
def test_the_compiler_knows_several_slices(text):
    """Slices of their own number, which the data axis of a mesh runs over in blocks."""
    place = topology.parse(text)
    topology.host(place)
    devices = topology.devices(place)
    assert len(devices) == place.devices
    mesh = sharding.make_mesh((place.slices, -1, 1), devices, slices=place.slices)
    assert [{d.slice_index for d in block.flat} for block in mesh.devices] == [
        {index} for index in range(place.slices)
    ]


@needs_libtpu
def test_a_mesh_that_cuts_an_axis_of_the_torus():
    """(4, 8, 2) on 4x4x4: no axis of size 8 or 2 is there, parts of axes are."""
    place = topology.parse("v5p:4x4x4")
    topology.host(place)
    mesh = sharding.make_mesh((4, 8, 2), topology.devices(place))
    assert mesh.devices.shape == (4, 8, 2)
    assert len({device.id for device in mesh.devices.flat}) == 64
    steps = [
        sum(a != b for a, b in zip(one.coords, two.coords)) for one, two in mesh.devices[0, :, :]
    ]
    assert max(steps) == 1, "tensor neighbours lie on one line"


def test_missing_libtpu_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"pip install {topology.LIBTPU}"):
        topology.host(topology.parse("v5e:2x2"))


def test_importing_changes_no_environment():
    """JAX itself notes where libtpu lies; nothing comes on top."""
    code = (
        "import os, jax; before = dict(os.environ)\n"
        "import jfreq.plan.aot, jfreq.plan.table, jfreq.cli.config_views, jfreq.cli.study\n"
        "assert dict(os.environ) == before"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("TPU_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=120)


def test_too_few_devices_in_this_process():
    with pytest.raises(InputError, match="needs 9 CPU devices, but JAX runs with"):
        topology.devices(topology.parse("h100:9"))
