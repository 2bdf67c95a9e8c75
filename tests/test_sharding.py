"""Who lives where: the rules, a golden table of ViT-B, and real placements on eight devices."""

import json
import math

import jax
import pytest

from jfreq import param_paths, sharding
from jfreq.config import TRANSFORMER_RULES, Mesh
from jfreq.methods.ssast import SSAST
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


def test_mesh_over_some_devices():
    mesh = sharding.make_mesh((1, -1, 1), jax.devices()[:1])
    assert math.prod(mesh.shape.values()) == 1
