"""``jfreq config``: what it shows of an experiment."""

import json

import jax

from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.testing import CLIP


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
    method = SSAST(encoder=ViT(width=96, depth=4, heads=3)).bind(CLIP)
    params = jax.eval_shape(method.init, jax.random.key(0))
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
    percent = float(split.splitlines()[-1].split(": ")[1].split("%")[0])
    assert percent > 98
    assert "no such folder" in refused("config", "show", "ssast_nano", "--data", "none")
