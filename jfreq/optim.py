"""One optax chain from one config: clip, Adam, decay, per-path rates, schedule."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfreq import trees
from jfreq.config import Optim, check
from jfreq.types import PyTree


def schedule(cfg: Optim, steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant, cosine or steps down."""
    warmup = min(cfg.warmup, steps // 2)
    rest = max(1, steps - warmup)
    if cfg.schedule == "constant":
        main = optax.constant_schedule(cfg.lr)
    elif cfg.schedule == "cosine":
        main = optax.cosine_decay_schedule(cfg.lr, rest, alpha=cfg.final_lr)
    else:
        start, every = cfg.step_from * steps, cfg.step_every * steps
        # Fractions of short runs may fall on the same step, or into the warm-up.
        edges = np.maximum(np.round(np.arange(start, steps, every)).astype(int) - warmup, 0)
        main = optax.piecewise_constant_schedule(
            cfg.lr,
            {
                int(at): cfg.step_decay ** int(n)
                for at, n in zip(*np.unique(edges, return_counts=True))
            },
        )
    if not warmup:
        return main
    ramp = optax.linear_schedule(0.0, cfg.lr, warmup)
    return optax.join_schedules([ramp, main], [warmup])


def _check_patterns(field: str, patterns: Sequence[str], params: PyTree) -> None:
    for pattern in patterns:
        check(
            any(trees.first_match(path, [pattern]) is not None for path in trees.flatten(params)),
            field,
            f"{pattern!r} matches no parameter; see `jfreq config params`",
        )


def decay_mask(cfg: Optim, params: PyTree) -> PyTree:
    """True for the parameters that weight decay reaches: by default kernels, never biases,
    norms, tokens or position tables. Raises ``InputError`` for a pattern that matches nothing."""
    _check_patterns("optim.decay", cfg.decay, params)
    return trees.map_paths(lambda path, _: trees.first_match(path, cfg.decay) is not None, params)


def rate_multipliers(cfg: Optim, params: PyTree) -> PyTree:
    """A factor for each parameter: first matching ``lr_mult``, times the layer decay.

    For a stack of blocks ``[l ...]`` the factor is an array over ``l``. Raises ``InputError`` for
    a pattern that matches nothing.
    """
    leaves = trees.flatten(params)
    patterns = [pattern for pattern, _ in cfg.lr_mult]
    _check_patterns("optim.lr_mult", patterns, params)
    early = re.compile(r"(^|/)(patch_embed|alias|positions|special_tokens|mask_token)(/|$)")
    stacks = [
        leaf.shape[0] for path, leaf in leaves.items()
        if "/blocks/" in path and not early.search(path)
    ]  # fmt: skip
    depth = stacks[0] if stacks else 0

    def factor(path, leaf):
        hit = trees.first_match(path, patterns)
        scale = 1.0 if hit is None else cfg.lr_mult[hit][1]
        if early.search(path):
            return np.float32(scale * cfg.layer_decay ** (depth + 1))
        if "/blocks/" in path:
            powers = cfg.layer_decay ** np.arange(leaf.shape[0], 0, -1, dtype=np.float64)
            return (scale * powers).astype(np.float32).reshape(-1, *[1] * (leaf.ndim - 1))
        return np.float32(scale)

    return trees.map_paths(factor, params)


def make(cfg: Optim, *, steps: int, params: PyTree) -> optax.GradientTransformation:
    """The transformation for parameters of this shape (arrays or ``ShapeDtypeStruct``)."""
    mu_dtype = jnp.dtype(cfg.mu_dtype)
    adam = optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2, eps=cfg.eps, mu_dtype=mu_dtype)
    chain = [adam]
    if cfg.weight_decay:
        decay = optax.add_decayed_weights(cfg.weight_decay, mask=decay_mask(cfg, params))
        chain = [decay, adam] if cfg.kind == "adam_l2" else [adam, decay]
    if cfg.clip is not None:
        chain = [optax.clip_by_global_norm(cfg.clip), *chain]
    if cfg.lr_mult or cfg.layer_decay < 1:
        chain.append(_scale_by(rate_multipliers(cfg, params)))
    return optax.chain(*chain, optax.scale_by_learning_rate(schedule(cfg, steps)))


def _scale_by(factors: PyTree) -> optax.GradientTransformation:
    def update(updates, params=None):
        del params
        return jax.tree.map(lambda u, f: u * jnp.broadcast_to(f, u.shape), updates, factors)

    return optax.stateless(update)
