"""Files of weights that cannot be imported are refused in one line."""

import numpy as np
import pytest

from jfreq.types import InputError
from jfreq.weights.importing import import_weights
from tests.weights import released
from tests.weights.released import folder, written


def without(tensors, name):
    return {key: x for key, x in tensors.items() if name not in key}


def changed(tensors, name, x):
    assert name in tensors
    return tensors | {name: np.asarray(x, np.float32)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda: released.ast(count=145), "no lattice"),
        (lambda: without(released.ast(), "blocks.1.attn.proj.weight"), "lacks v.blocks.1.attn"),
        (lambda: without(released.ast(), "blocks.0.norm1"), "lacks v.blocks.0.norm1"),
        (lambda: without(released.ast(depth=3), "blocks.1"), "blocks are missing"),
        (lambda: released.ast(width=40), "give --heads"),
        (
            lambda: changed(released.ast(), "module.v.norm.weight", np.ones(3)),
            r"v.norm.weight has the shape \[3\].*\[64\]",
        ),
        (
            lambda: changed(released.ast(), "module.v.norm.weight", np.full(64, np.nan)),
            "NaN or infinite",
        ),
        (
            lambda: changed(released.ssast(), "module.p_input_tdim", 256),
            r"v.pos_embed has the shape \[1, 66, 64\].*\[1, 130, 64\]",
        ),
        (lambda: {"model.encoder.embed_positions.weight": np.ones(3)}, "looks like Whisper"),
        (lambda: {"encoder.positional_embedding": np.ones(3)}, "looks like Whisper as OpenAI"),
        (
            lambda: {"patch_embed.proj.weight": np.ones((8, 3, 16, 16))},
            "looks like a vision transformer for images; supported are SSAST",
        ),
        (
            lambda: released.imagenet() | {"blocks.0.ls1.gamma": np.ones(64)},
            "has blocks.0.ls1.gamma, which an AST has not",
        ),
        (
            lambda: changed(released.imagenet(), "pos_embed", np.ones((1, 17, 64))),
            "15 positions .* no square",
        ),
        (lambda: {"some.weight": np.ones(3)}, "holds some.weight"),
        (
            lambda: released.eat() | {"modality_encoders.IMAGE.alibi_scale": np.ones(1)},
            "another form than EAT",
        ),
        (lambda: released.as_huggingface(released.ast(), 4, ""), "lies beside no config.json"),
    ],
)
def test_refused_in_one_line(tmp_path, tensors, message):
    with pytest.raises(InputError, match=message) as raised:
        import_weights(written(tmp_path, tensors()))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool])
def test_tensors_that_are_not_of_floating_point_are_refused(tmp_path, dtype):
    tensors = released.ast(depth=1)
    name = "module.v.blocks.0.mlp.fc1.weight"
    path = written(tmp_path, tensors | {name: np.ones_like(tensors[name], dtype)})
    message = f"v.blocks.0.mlp.fc1.weight holds {np.dtype(dtype)}, not floating-point"
    with pytest.raises(InputError, match=message):
        import_weights(path)
    # Whole numbers that are not taken do not matter.
    import_weights(written(tmp_path, tensors | {"module.v.position_ids": np.arange(3)}))


def test_settings_of_huggingface_that_do_not_fit_are_refused(tmp_path):
    names = released.as_huggingface(released.ast(), 4, "")
    config = {"num_attention_heads": 1, "max_length": 128}
    for change, features, message in [
        ({"max_length": 256}, {}, "position_embeddings has the shape"),
        ({"hidden_act": "relu"}, {}, "only 'gelu'"),
        ({"num_attention_heads": "1"}, {}, "num_attention_heads as '1'"),
        ({"num_attention_heads": 7}, {}, "7 attention heads do not divide"),
        ({}, {"do_normalize": False}, "only True"),
        ({}, {"std": 0}, "preprocessor_config.json gives std as 0"),
        ({}, {"std": -1.0}, "preprocessor_config.json gives std as -1"),
    ]:
        with pytest.raises(InputError, match=message):
            import_weights(folder(tmp_path, names, config | change, features))


def test_damaged_files_are_refused_in_one_line(tmp_path):
    path = written(tmp_path, released.ast(depth=1))
    path.write_bytes(path.read_bytes()[:-100])
    for wrong in (path, tmp_path / "nothing.pth", tmp_path):
        if wrong == tmp_path:
            path.unlink()
        with pytest.raises(InputError) as raised:
            import_weights(wrong)
        assert "\n" not in str(raised.value)
