"""Random checkpoints in the layouts of the releases, and their forward passes in plain numpy.

Each forward was held equal to the released torch code once (differences below 1e-5).
"""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save_file
from scipy.special import erf

Tensors = dict[str, np.ndarray]


class Maker:
    """Random tensors by name."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.tensors: Tensors = {}

    def add(self, name: str, *shape: int, scale: float = 0.5, mean: float = 0.0) -> None:
        self.tensors[name] = (mean + scale * self.rng.normal(size=shape)).astype(np.float32)

    def linear(self, name: str, outputs: int, inputs: int) -> None:
        self.add(f"{name}.weight", outputs, inputs, scale=inputs**-0.5)
        self.add(f"{name}.bias", outputs, scale=0.1)

    def norm(self, name: str, width: int) -> None:
        self.add(f"{name}.weight", width, scale=0.1, mean=1.0)
        self.add(f"{name}.bias", width, scale=0.1)

    def blocks(self, prefix: str, depth: int, width: int) -> None:
        for i in range(depth):
            block = f"{prefix}blocks.{i}."
            self.norm(f"{block}norm1", width)
            self.norm(f"{block}norm2", width)
            self.linear(f"{block}attn.qkv", 3 * width, width)
            self.linear(f"{block}attn.proj", width, width)
            self.linear(f"{block}mlp.fc1", 4 * width, width)
            self.linear(f"{block}mlp.fc2", width, 4 * width)


def written(tmp_path, tensors, name="weights.safetensors"):
    save_file({key: np.array(x, order="C") for key, x in tensors.items()}, tmp_path / name)
    return tmp_path / name


def folder(tmp_path, tensors, config, features=None):
    """A folder as Hugging Face writes it."""
    written(tmp_path, tensors, "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(features or {}))
    return tmp_path


# ------------------------------------------------------------------ the layouts


def deit(
    maker: Maker, *, width: int, depth: int, patch: tuple[int, int], count: int, special: int
) -> None:
    """What AST and SSAST share; ``patch`` is (time, freq)."""
    maker.add("module.v.cls_token", 1, 1, width)
    if special == 2:
        maker.add("module.v.dist_token", 1, 1, width)
    maker.add("module.v.pos_embed", 1, special + count, width)
    maker.add("module.v.patch_embed.proj.weight", width, 1, patch[1], patch[0], scale=0.05)
    maker.add("module.v.patch_embed.proj.bias", width)
    maker.blocks("module.v.", depth, width)
    maker.norm("module.v.norm", width)
    maker.linear("module.v.head", 10, width)


def ast(*, width=64, depth=2, count=144, classes=7, special=2, patch=(16, 16), seed=0) -> Tensors:
    """AST; 144 patches of 128 frames at strides of 10."""
    maker = Maker(seed)
    deit(maker, width=width, depth=depth, patch=patch, count=count, special=special)
    maker.norm("module.mlp_head.0", width)
    maker.linear("module.mlp_head.1", classes, width)
    return maker.tensors


def imagenet(*, width=64, depth=2, side=4, dist=True, seed=0) -> Tensors:
    """A DeiT on images of ``side`` x ``side`` patches, under timm's names."""
    maker = Maker(seed)
    for name in ("cls_token", "dist_token")[: 1 + dist]:
        maker.add(name, 1, 1, width)
    maker.add("pos_embed", 1, 1 + dist + side**2, width)
    maker.add("patch_embed.proj.weight", width, 3, 16, 16, scale=0.05)
    maker.add("patch_embed.proj.bias", width)
    maker.blocks("", depth, width)
    maker.norm("norm", width)
    maker.linear("head", 10, width)
    return maker.tensors


def ssast(*, width=64, depth=2, patch=(16, 16), frames=128, special=2, seed=0) -> Tensors:
    """SSAST as pre-trained, on 128 bins."""
    maker = Maker(seed)
    count = (frames // patch[0]) * (128 // patch[1])
    deit(maker, width=width, depth=depth, patch=patch, count=count, special=special)
    maker.tensors["module.p_input_fdim"] = np.array(128)
    maker.tensors["module.p_input_tdim"] = np.array(frames)
    maker.add("module.mask_embed", 1, 1, width)
    for head in ("cpredlayer", "gpredlayer"):
        maker.linear(f"module.{head}.0", width, width)
        maker.linear(f"module.{head}.2", 256, width)
    return maker.tensors


def eat(*, width=64, depth=2, decoder=64, layers=2, positions=None, seed=0) -> Tensors:
    """EAT as pre-trained: the student, its decoder, and the teacher in ``_ema``."""
    image = "modality_encoders.IMAGE."
    teacher = eat_encoder(Maker(seed + 1), width, depth)
    maker = Maker(seed)
    eat_encoder(maker, width, depth)
    for i in range(layers):
        inputs = width if i == 0 else decoder
        shape = (decoder, inputs // 16, 3, 3)
        maker.add(f"{image}decoder.blocks.{i}.0.weight", *shape, scale=0.2)
        maker.add(f"{image}decoder.blocks.{i}.0.bias", decoder)
    maker.linear(f"{image}decoder.proj", width, decoder)
    found = maker.tensors | {f"_ema.{name}": x for name, x in teacher.items()}
    if positions is not None:
        found[f"{image}fixed_positional_encoder.positions"] = positions
    return found


def eat_encoder(maker: Maker, width: int, depth: int) -> Tensors:
    image = "modality_encoders.IMAGE."
    maker.add(f"{image}extra_tokens", 1, 1, width)
    maker.add(f"{image}local_encoder.proj.weight", width, 1, 16, 16, scale=0.05)
    maker.add(f"{image}local_encoder.proj.bias", width)
    maker.norm(f"{image}context_encoder.norm", width)
    maker.blocks("", depth, width)
    return maker.tensors


def eat_tuned(*, width=64, depth=2, classes=7) -> Tensors:
    maker = Maker()
    eat_encoder(maker, width, depth)
    tensors = {f"model.{name}": x for name, x in maker.tensors.items()}
    maker = Maker(2)
    maker.norm("fc_norm", width)
    maker.linear("head", classes, width)
    return tensors | maker.tensors


def audiomae(*, width=64, depth=2, frames=128, classes=0, windows=True, seed=0) -> Tensors:
    """Audio-MAE: fine-tuned where there are classes, else with a decoder of ``windows`` or of a
    plain transformer, both 32 wide with 16 heads."""
    maker, inner, count = Maker(seed), 32, frames // 16 * 8
    maker.add("cls_token", 1, 1, width)
    maker.add("pos_embed", 1, 1 + count, width)
    maker.add("patch_embed.proj.weight", width, 1, 16, 16, scale=0.05)
    maker.add("patch_embed.proj.bias", width)
    maker.blocks("", depth, width)
    if classes:
        maker.norm("fc_norm", width)
        maker.linear("head", classes, width)
        return maker.tensors
    maker.norm("norm", width)
    maker.add("mask_token", 1, 1, inner)
    maker.add("decoder_pos_embed", 1, 1 + count, inner)
    if windows:
        maker.tensors["decoder_pos_embed"][:, 0] = 0  # of the token that windows do not have
    maker.linear("decoder_embed", inner, width)
    maker.blocks("decoder_", depth, inner)
    for i in range(depth if windows else 0):
        name = f"decoder_blocks.{i}.attn"
        maker.tensors[f"{name}.tau"] = np.linspace(0.2, 1.5, 16).astype(np.float32)
        maker.linear(f"{name}.meta_mlp.fc1", 24, 2)
        maker.linear(f"{name}.meta_mlp.fc2", 16, 24)
    maker.norm("decoder_norm", inner)
    maker.linear("decoder_pred", 256, inner)
    return maker.tensors


def beats(*, width=64, depth=2, heads=4, classes=0, codes=0, seed=0) -> Tensors:
    """BEATs as pre-trained, fine-tuned where there are classes, or a tokenizer of so many codes;
    its patches have 48 numbers, its convolution 32 places in 4 groups, its bias 32 distances."""
    maker, size = Maker(seed), width // heads
    maker.add("patch_embedding.weight", 48, 1, 16, 16, scale=0.05)
    maker.norm("layer_norm", 48)
    maker.linear("post_extract_proj", width, 48)
    maker.add("encoder.pos_conv.0.bias", width, scale=0.1)
    maker.add("encoder.pos_conv.0.weight_g", 1, 1, 32, scale=0.2, mean=1.0)
    maker.add("encoder.pos_conv.0.weight_v", width, width // 4, 32)
    maker.norm("encoder.layer_norm", width)
    for i in range(depth):
        layer = f"encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            maker.linear(f"{layer}self_attn.{name}", width, width)
        table = f"{layer}self_attn.relative_attention_bias.weight"
        maker.add(table, 32, heads)
        maker.tensors[table] = maker.tensors[table.replace(f"layers.{i}.", "layers.0.")]
        maker.linear(f"{layer}self_attn.grep_linear", 8, size)
        maker.add(f"{layer}self_attn.grep_a", 1, heads, 1, 1, mean=1.0)
        maker.norm(f"{layer}self_attn_layer_norm", width)
        maker.norm(f"{layer}final_layer_norm", width)
        maker.linear(f"{layer}fc1", 2 * width, width)
        maker.linear(f"{layer}fc2", width, 2 * width)
    if classes:
        maker.linear("predictor", classes, width)
    if codes:
        maker.linear("quantize_layer.0", width, width)
        maker.linear("quantize_layer.2", 16, width)
        maker.add("quantize.embedding.weight", codes, 16)
        book = maker.tensors["quantize.embedding.weight"]
        book /= np.linalg.norm(book, axis=-1, keepdims=True)
        maker.add("quantize.embedding.embed_avg", codes, 16)
        maker.add("quantize.embedding.cluster_size", codes)
        maker.add("quantize.cluster_size", codes)
    return maker.tensors


def as_huggingface(tensors: Tensors, version: int, prefix: str) -> Tensors:
    """An AST under the names of transformers."""
    blocks = {
        4: {
            "norm1": "layernorm_before", "norm2": "layernorm_after",
            "attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        },
        5: {
            "norm1": "layernorm_before", "norm2": "layernorm_after",
            "attn.proj": "attention.o_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
        },
    }[version]  # fmt: skip
    layer = {4: "encoder.layer", 5: "layers"}[version]
    qkv = {
        4: [f"attention.attention.{x}" for x in ("query", "key", "value")],
        5: [f"attention.{x}_proj" for x in "qkv"],
    }[version]
    whole = {
        "cls_token": "embeddings.cls_token",
        "dist_token": "embeddings.distillation_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    found = {}
    for name, x in tensors.items():
        name = name.removeprefix("module.").removeprefix("v.")
        if name in whole:
            found[prefix + whole[name]] = x
        elif name.startswith("blocks."):
            _, i, rest = name.split(".", 2)
            part, _, kind = rest.rpartition(".")
            if part == "attn.qkv":
                for ours, value in zip(qkv, np.split(x, 3)):
                    found[f"{prefix}{layer}.{i}.{ours}.{kind}"] = value
            else:
                found[f"{prefix}{layer}.{i}.{blocks[part]}.{kind}"] = x
        elif name.startswith("mlp_head.") and prefix:
            part = {"0": "layernorm", "1": "dense"}[name.split(".")[1]]
            found[f"classifier.{part}.{name.rpartition('.')[2]}"] = x
    return found


# ------------------------------------------------------------------ their forward passes


def layer_norm(x, tensors, name, eps):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def linear(x, tensors, name):
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def attention(x, tensors, name, heads):
    b, n, d = x.shape
    q, k, v = (
        linear(x, tensors, f"{name}.qkv")
        .reshape(b, n, 3, heads, d // heads)
        .transpose(2, 0, 3, 1, 4)
    )
    scores = q @ k.transpose(0, 1, 3, 2) * (d // heads) ** -0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    return linear(y.transpose(0, 2, 1, 3).reshape(b, n, d), tensors, f"{name}.proj")


def mlp(x, tensors, name):
    y = linear(x, tensors, f"{name}.fc1")
    return linear(0.5 * y * (1 + erf(y / np.sqrt(2))), tensors, f"{name}.fc2")


def run_blocks(x, tensors, prefix, *, eps=1e-6, post=False, heads=None):
    """The states after every block."""
    heads, layers = heads or max(1, x.shape[-1] // 64), []
    depth = len({n for n in tensors if n.startswith(f"{prefix}blocks.") and "norm1.weight" in n})
    for i in range(depth):
        name = f"{prefix}blocks.{i}."
        if post:
            x = layer_norm(
                x + attention(x, tensors, f"{name}attn", heads), tensors, f"{name}norm1", eps
            )
            x = layer_norm(x + mlp(x, tensors, f"{name}mlp"), tensors, f"{name}norm2", eps)
        else:
            y = layer_norm(x, tensors, f"{name}norm1", eps)
            x = x + attention(y, tensors, f"{name}attn", heads)
            x = x + mlp(layer_norm(x, tensors, f"{name}norm2", eps), tensors, f"{name}mlp")
        layers.append(x)
    return layers


def convolved(image, tensors, name, stride):
    """Patches of images ``[b h w]``, row by row, through a convolution ``[d 1 kh kw]``."""
    kernel = tensors[f"{name}.weight"][:, 0]
    size = kernel.shape[1:]
    cut = np.lib.stride_tricks.sliding_window_view(image, size, axis=(1, 2))
    cut = cut[:, :: stride[0], :: stride[1]]
    tokens = np.einsum("bhwij,dij->bhwd", cut, kernel, optimize=True)
    return tokens.reshape(len(image), -1, len(kernel)) + tensors[f"{name}.bias"]


def double(tensors: Tensors) -> Tensors:
    return {name: x.astype(np.float64) for name, x in tensors.items()}


def ast_forward(tensors, spec, stride, *, eps=1e-6, pool="special", head_eps=1e-5):
    """Layers, final tokens (special ones first) and logits, where there is a head, of spectrograms
    ``[b t f]``; ``stride`` is (time, freq)."""
    t = double({name.removeprefix("module."): x for name, x in tensors.items()})
    x = convolved(spec.transpose(0, 2, 1), t, "v.patch_embed.proj", stride[::-1])
    special = [t[name] for name in ("v.cls_token", "v.dist_token") if name in t]
    first = np.concatenate(special, axis=1).repeat(len(spec), axis=0)
    layers = run_blocks(np.concatenate([first, x], 1) + t["v.pos_embed"], t, "v.", eps=eps)
    x = layer_norm(layers[-1], t, "v.norm", eps)
    if "mlp_head.1.weight" not in t:
        return layers, x, None
    clip = x[:, : len(special)] if pool == "special" else x[:, len(special) :]
    clip = layer_norm(clip.mean(1), t, "mlp_head.0", head_eps)
    return layers, x, linear(clip, t, "mlp_head.1")


def eat_forward(tensors, spec, positions, prefix=""):
    """Layers and logits, where there is a head, of EAT; ``positions`` ``[n d]``."""
    t, image = double(tensors), f"{prefix}modality_encoders.IMAGE."
    x = convolved(spec, t, f"{image}local_encoder.proj", (16, 16)) + positions
    first = t[f"{image}extra_tokens"].repeat(len(spec), axis=0)
    x = layer_norm(np.concatenate([first, x], 1), t, f"{image}context_encoder.norm", 1e-6)
    layers = run_blocks(x, t, prefix, post=True)
    if "head.weight" not in t:
        return layers, None
    clip = layer_norm(layers[-1][:, 0], t, "fc_norm", 1e-6)
    return layers, linear(clip, t, "head")


def audiomae_forward(tensors, spec, visible=None):
    """Layers, and the final tokens or logits of Audio-MAE; of the ``visible`` patches ``[b k]``."""
    t = double(tensors)
    x = convolved(spec, t, "patch_embed.proj", (16, 16)) + t["pos_embed"][:, 1:]
    x = x if visible is None else np.take_along_axis(x, visible[..., None], 1)
    first = (t["cls_token"] + t["pos_embed"][:, :1]).repeat(len(spec), axis=0)
    layers = run_blocks(np.concatenate([first, x], 1), t, "")
    if "head.weight" not in t:
        return layers, layer_norm(layers[-1], t, "norm", 1e-6)
    clip = layer_norm(layers[-1][:, 1:].mean(1), t, "fc_norm", 1e-6)
    return layers, linear(clip, t, "head")


def beats_positions(x, tensors):
    """What the convolution of BEATs adds to tokens ``[b n d]``."""
    kernel = tensors["encoder.pos_conv.0.weight_v"]
    kernel = kernel / np.sqrt((kernel**2).sum((0, 1), keepdims=True))
    kernel = kernel * tensors["encoder.pos_conv.0.weight_g"]
    out, size, taps = kernel.shape
    padded = np.pad(x, ((0, 0), (taps // 2, taps - taps // 2), (0, 0)))
    near = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=1)[:, : x.shape[1]]
    near = near.reshape(*near.shape[:2], out // size, size, taps)
    kernel = kernel.reshape(out // size, size, size, taps)
    y = np.einsum("bngck,gock->bngo", near, kernel, optimize=True).reshape(x.shape)
    y = y + tensors["encoder.pos_conv.0.bias"]
    return 0.5 * y * (1 + erf(y / np.sqrt(2)))


def beats_bias(count, table, largest):
    """The bias of ``count`` tokens, by distances of which the ``largest`` has the last bucket."""
    half = len(table) // 2
    exact, apart = half // 2, np.arange(count)[None] - np.arange(count)[:, None]
    far = np.maximum(np.abs(apart), 1)
    wide = np.log(far / exact) / np.log(largest / exact) * (half - exact)
    wide = np.minimum(exact + np.trunc(wide), half - 1).astype(int)
    bucket = np.where(np.abs(apart) < exact, np.abs(apart), wide) + half * (apart > 0)
    return table[bucket].transpose(2, 0, 1)


def beats_attention(x, tensors, name, bias, valid):
    b, n, d = x.shape
    heads = len(bias)

    def split(part):
        return linear(x, tensors, f"{name}.{part}").reshape(b, n, heads, -1).transpose(0, 2, 1, 3)

    q, k, v = (split(part) for part in ("q_proj", "k_proj", "v_proj"))
    gate = linear(q, tensors, f"{name}.grep_linear").reshape(b, heads, n, 2, 4).sum(-1)
    a, c = np.moveaxis(1 / (1 + np.exp(-gate)), -1, 0)
    a = a * (c * tensors[f"{name}.grep_a"][..., 0] - 1) + 2
    scores = q @ k.swapaxes(-1, -2) * (d // heads) ** -0.5 + a[..., None] * bias
    scores = np.where(valid[:, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    return linear(y.transpose(0, 2, 1, 3).reshape(b, n, d), tensors, f"{name}.out_proj")


def beats_forward(tensors, spec, valid, *, depth=2, largest=100):
    """Layers of BEATs; ``valid`` ``[b n]``: patches outside the padding. And the probabilities of
    a classifier, or the codes of a tokenizer."""
    t = double(tensors)
    t["patch_embedding.bias"] = np.zeros(48)
    x = layer_norm(convolved(spec, t, "patch_embedding", (16, 16)), t, "layer_norm", 1e-5)
    x = np.where(valid[..., None], linear(x, t, "post_extract_proj"), 0)
    x = layer_norm(x + beats_positions(x, t), t, "encoder.layer_norm", 1e-5)
    table = t["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    bias, scale, layers = beats_bias(x.shape[1], table, largest), (2 * depth) ** 0.25, []
    for i in range(depth):
        name = f"encoder.layers.{i}"
        y = beats_attention(x, t, f"{name}.self_attn", bias, valid)
        x = layer_norm(scale * x + y, t, f"{name}.self_attn_layer_norm", 1e-5)
        x = layer_norm(scale * x + mlp(x, t, name), t, f"{name}.final_layer_norm", 1e-5)
        layers.append(x)
    if "predictor.weight" in t:
        logits = np.where(valid[..., None], linear(x, t, "predictor"), 0)
        return layers, 1 / (1 + np.exp(-logits.sum(1) / valid.sum(1)[:, None]))
    if "quantize_layer.0.weight" not in t:
        return layers, None
    x = linear(np.tanh(linear(x, t, "quantize_layer.0")), t, "quantize_layer.2")
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return layers, np.argmax(x @ t["quantize.embedding.weight"].T, -1)


def window_attention(x, tensors, name, grid, shift):
    """Attention of Swin V2 in windows of 4 x 4 of a grid ``[t f]``; rolled in time by ``shift``."""
    b, heads, size = len(x), 16, x.shape[-1] // 16
    places = np.stack(np.indices(grid), -1).reshape(-1, 2)
    moved = (places - [shift, 0]) % grid
    window = moved // 4
    apart = places[:, None] - places[None]
    same = (window[:, None] == window[None]).all(-1) & (np.abs(apart) < 4).all(-1)
    x = linear(x, tensors, f"{name}.qkv").reshape(b, -1, 3, heads, size)
    q, k, v = x.transpose(2, 0, 3, 1, 4)
    q, k = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (q, k))
    scores = q @ k.swapaxes(-1, -2) / np.maximum(tensors[f"{name}.tau"], 0.01)[:, None, None]
    bias = np.sign(apart) * np.log(1 + np.abs(apart))
    bias = np.maximum(linear(bias, tensors, f"{name}.meta_mlp.fc1"), 0)
    scores = scores + linear(bias, tensors, f"{name}.meta_mlp.fc2").transpose(2, 0, 1)
    weights = np.where(same, np.exp(scores), 0)
    y = weights / weights.sum(-1, keepdims=True) @ v
    return linear(y.transpose(0, 2, 1, 3).reshape(b, len(places), -1), tensors, f"{name}.proj")


def audiomae_decoded(tensors, states, restore, grid):
    """Predicted patches ``[b n 256]``, values in the order (time, frequency), from the states of
    the encoder, cls first; ``restore``: where every patch lies among the visible and masked."""
    t = double(tensors)
    x = linear(states, t, "decoder_embed")
    masked = np.broadcast_to(t["mask_token"], (len(x), restore.shape[1] + 1 - x.shape[1], 32))
    rest = np.take_along_axis(np.concatenate([x[:, 1:], masked], 1), restore[..., None], 1)
    x = np.concatenate([x[:, :1], rest], 1) + t["decoder_pos_embed"]
    if "decoder_blocks.0.attn.tau" in t:
        x = x[:, 1:]
        for i in range(2):
            name = f"decoder_blocks.{i}."
            y = window_attention(x, t, f"{name}attn", grid, 2 * (i % 2))
            x = x + layer_norm(y, t, f"{name}norm1", 1e-6)
            x = x + layer_norm(mlp(x, t, f"{name}mlp"), t, f"{name}norm2", 1e-6)
    else:
        x = run_blocks(x, t, "decoder_", heads=16)[-1][:, 1:]
    return linear(layer_norm(x, t, "decoder_norm", 1e-6), t, "decoder_pred")
