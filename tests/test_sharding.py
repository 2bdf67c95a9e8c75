"""Who lives where: the rules, a golden table of ViT-B, and real placements on eight devices."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jfreq import param_paths, sharding
from jfreq.config import TRANSFORMER_RULES, Mesh, Optim
from jfreq.methods.ssast import SSAST
from jfreq.train import optimizer
from jfreq.types import DataSpec, InputError, SignalSpec

SIZES = {"data": 1, "fsdp": 8, "tensor": 2}
GOLDEN = "tests/golden/shardings_ssast_base.json"
UPDATE = f"""the placement of SSAST-base parameters changed. Runs keep working (checkpoints are
resharded when restored), but check memory and collectives; if the change is meant, write `found`
to {GOLDEN} with json.dumps(found, indent=1) and say why in the commit."""


@pytest.fixture(scope="module")
def base():
    """Shapes of SSAST-base on 10 s clips, by path."""
    method = SSAST().bind(DataSpec((SignalSpec("audio", 16000, 160000),)))
    return jax.eval_shape(method.init, jax.random.key(0))


def spec(path, shape, **sizes):
    return tuple(sharding.spec_for(path, shape, 4, SIZES | sizes, TRANSFORMER_RULES))


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("blocks/qkv/kernel", (12, 768, 3, 12, 64), (None, "fsdp", None, "tensor", None)),
        ("blocks/qkv/bias", (12, 3, 12, 64), (None, None, "tensor", None)),
        ("blocks/proj/kernel", (12, 12, 64, 768), (None, "tensor", None, "fsdp")),
        ("blocks/fc1/kernel", (12, 768, 3072), (None, "fsdp", "tensor")),
        ("blocks/fc1/bias", (12, 3072), (None, "tensor")),
        ("blocks/fc2/kernel", (12, 3072, 768), (None, "tensor", "fsdp")),
        ("blocks/fc2/bias", (12, 768), ()),
    ],
)
@pytest.mark.parametrize("prefix", ["", "backbone/trunk/encoder/", "0/1/mu/trunk/encoder/"])
def test_rules(path, shape, expected, prefix):
    """Attention is split by heads, the MLP by hidden units, both again over fsdp."""
    assert spec(prefix + path, shape) == expected


def test_rules_need_the_whole_name():
    assert spec("trunk/my_blocks/qkv/kernel", (768, 3, 12, 64)) != (
        "fsdp", None, "tensor", None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "sizes", "expected"),
    [
        ((12, 768, 3072), {"tensor": 5}, (None, "fsdp", None)),
        ((12, 770, 3072), {}, (None, None, "tensor")),
        ((12, 770, 3071), {}, (None, None, None)),
        ((12, 768, 3072), {"fsdp": 1}, (None, None, "tensor")),
        ((12, 768, 3072), {"fsdp": 1, "tensor": 1}, (None, None, None)),
    ],
)
def test_an_axis_that_does_not_divide_drops(shape, sizes, expected):
    assert spec("trunk/encoder/blocks/fc1/kernel", shape, **sizes) == expected


@pytest.mark.parametrize(
    ("shape", "sizes", "expected"),
    [
        ((1024, 768), {}, ("fsdp", None)),
        ((100, 8000), {}, (None, "fsdp")),
        ((1023, 768), {}, (None, "fsdp")),
        ((1023, 767), {}, ()),
        ((100, 100), {}, ()),  # small: not worth a gather
        ((1024, 768), {"fsdp": 1}, ()),
        ((), {}, ()),
    ],
)
def test_other_large_arrays_are_split_over_fsdp(shape, sizes, expected):
    assert spec("trunk/whatever/table", shape, **sizes) == expected


def test_what_a_rule_cannot_get_is_said(base):
    """Twelve heads do not divide over eight, tables of 513 positions not over five."""
    found = sharding.dropped(base, {"data": 1, "fsdp": 1, "tensor": 8}, TRANSFORMER_RULES)
    blocks = "backbone/trunk/encoder/blocks" if any(p.startswith("backbone") for p in
        param_paths.flatten(base)) else "trunk/encoder/blocks"  # fmt: skip
    assert found == ("not sharded as asked: tensor 8 does not divide 12 "
                     f"({blocks}/proj/kernel, {blocks}/qkv/bias and 1 more)")  # fmt: skip
    assert not sharding.dropped(base, {"data": 8, "fsdp": 4, "tensor": 2}, TRANSFORMER_RULES)
    leaves = {"table": jax.ShapeDtypeStruct((1023, 767), "float32"),
              "bias": jax.ShapeDtypeStruct((4,), "float32")}  # fmt: skip
    rules = (("bias", ("fsdp", None)),)
    assert sharding.dropped(leaves, SIZES, rules) == (
        "not sharded as asked: rule 'bias' is for 2 dimensions, not 1 (bias); fsdp 8 divides no "
        "dimension (table)"
    )


def test_rules_of_ones_own(base):
    """The first match decides; an experiment without rules splits every large array over fsdp."""
    own = (("blocks/fc1/kernel", ("tensor", "fsdp")), *TRANSFORMER_RULES)
    path, shape = "trunk/encoder/blocks/fc1/kernel", (12, 768, 3072)
    assert tuple(sharding.spec_for(path, shape, 4, SIZES, own)) == (None, "tensor", "fsdp")
    assert tuple(sharding.spec_for(path, shape, 4, SIZES, ())) == (None, None, "fsdp")
    sharding.check_rules(own, base)
    with pytest.raises(InputError, match=r"^mesh.rules: 'blocks/fc3/kernel' matches no parameter"):
        sharding.check_rules((("blocks/fc3/kernel", ("fsdp",)), *own), base)
    with pytest.raises(InputError, match=r"^mesh.rules: 'x': no axis 'tenser' .*mean 'tensor'"):
        Mesh(rules=(("x", (None, "tenser")),))
    with pytest.raises(InputError, match=r"^mesh.rules: 'x' names fsdp twice"):
        Mesh(rules=(("x", ("fsdp", "fsdp")),))


def test_golden_table(base, root):
    found = {path: list(spec(path, leaf.shape)) for path, leaf in param_paths.flatten(base).items()}
    assert found == json.loads((root / GOLDEN).read_text()), UPDATE


@pytest.mark.parametrize("sizes", [{"fsdp": 8, "tensor": 1}, {"fsdp": 8, "tensor": 2}])
def test_nearly_everything_is_split(base, sizes):
    """Under 2 % of the scalars of ViT-B are held in full by every device."""
    leaves = param_paths.flatten(base)
    whole = sum(
        leaf.size for path, leaf in leaves.items() if "fsdp" not in spec(path, leaf.shape, **sizes)
    )
    assert 0 < whole < 0.02 * param_paths.count(base)


@pytest.mark.dist
def test_moments_live_with_their_parameters(base):
    mesh = sharding.make_mesh((1, 4, 2))
    optimiser = optimizer.make(Optim(weight_decay=0.1, clip=1.0), steps=9, params=base)
    state = {"params": base, "opt": jax.eval_shape(optimiser.init, base)}
    places = param_paths.flatten(sharding.shardings(state, mesh, TRANSFORMER_RULES))
    for path in param_paths.flatten(base):
        mine = places[f"params/{path}"].spec
        others = [p for p in places if p.startswith("opt/") and p.endswith(f"/{path}")]
        assert len(others) == 2, "mu and nu"
        assert all(places[other].spec == mine for other in others), path
    counters = [p for p in places if p.endswith("/count")]
    assert counters and all(places[p].spec == P() for p in counters)


@pytest.mark.dist
def test_shards_on_devices():
    """Each device holds its rank-coded part, keys and scalars a copy."""
    mesh = sharding.make_mesh((2, 2, 2))
    values = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    tree = {"blocks": {"fc1": {"kernel": values}}, "step": np.int32(3), "key": jax.random.key(0)}
    placed = jax.device_put(tree, sharding.shardings(tree, mesh, TRANSFORMER_RULES))
    kernel = placed["blocks"]["fc1"]["kernel"]
    for shard in kernel.addressable_shards:
        _, fsdp, tensor = np.argwhere(mesh.devices == shard.device)[0]
        expected = values[:, 2 * fsdp : 2 * fsdp + 2, 3 * tensor : 3 * tensor + 3]
        np.testing.assert_array_equal(shard.data, expected)
    assert placed["step"].sharding.is_fully_replicated
    assert placed["key"].sharding.is_fully_replicated


@pytest.mark.dist
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 4, 2), (1, 4, 2))],
)
def test_make_mesh(sizes, shape):
    mesh = sharding.make_mesh(sizes)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert tuple(mesh.shape.values()) == shape
    assert sharding.batch_ways(mesh) == shape[0] * shape[1]
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


@pytest.mark.dist
@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, 16, 1), (2, 2, 1), (4, 4, 4)])
def test_sizes_that_do_not_fit_the_devices(sizes):
    text = f"mesh: data={sizes[0]}, fsdp={sizes[1]}, tensor={sizes[2]} does not match 8 devices"
    with pytest.raises(InputError, match=text):
        sharding.make_mesh(sizes)


@pytest.mark.dist
def test_a_mesh_that_cuts_axes_of_a_torus(monkeypatch):
    """jax.make_mesh refuses (4, 8, 2) on a TPU of 4 x 4 x 4; its axes are cut then."""

    def refuse(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(jax, "make_mesh", refuse)
    mesh = sharding.make_mesh((2, -1, 2))
    assert mesh.axis_names == sharding.AXES and mesh.devices.shape == (2, 2, 2)
    assert len({device.id for device in mesh.devices.flat}) == 8
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


def test_mesh_over_some_devices():
    mesh = sharding.make_mesh((1, -1, 1), jax.devices()[:1])
    assert math.prod(mesh.shape.values()) == 1


@pytest.mark.dist
def test_batches_are_split_by_rows():
    mesh = sharding.make_mesh((2, 2, 2))
    rows = {"audio": np.arange(8 * 5, dtype=np.int16).reshape(8, 5, 1), "label": np.arange(8)}
    batch = sharding.to_global(rows, mesh)
    for name, value in rows.items():
        np.testing.assert_array_equal(batch[name], value)
        for shard in batch[name].addressable_shards:
            data, fsdp, _ = np.argwhere(mesh.devices == shard.device)[0]
            first = 2 * (2 * data + fsdp)
            np.testing.assert_array_equal(shard.data, value[first : first + 2])


@pytest.mark.dist
def test_constrain():
    """Where a mesh is set the batch axis stays split; without one, or for odd rows, a no-op."""
    x = jnp.arange(24.0).reshape(8, 3)
    assert sharding.constrain(x) is x
    assert "sharding_constraint" not in str(jax.make_jaxpr(sharding.constrain)(x))
    mesh = sharding.make_mesh((2, 2, 2))
    with jax.set_mesh(mesh):
        out = jax.jit(lambda x: sharding.constrain(2 * x))(x)
        assert out.sharding.spec[0] == ("data", "fsdp")
        odd = jax.make_jaxpr(sharding.constrain)(x[:3])
    assert "sharding_constraint" not in str(odd)
    np.testing.assert_array_equal(out, 2 * x)
    other = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(other):
        assert "sharding_constraint" not in str(jax.make_jaxpr(sharding.constrain)(x))
