"""One optax chain from one config: clip, update rule, decay, per-path rates, schedule.

The update rule is Adam or whatever optax has by name. Groups of parameters have a chain each,
behind the clip, which looks at all gradients together.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfreq import param_paths
from jfreq.config import Optim, check, close_match
from jfreq.method import STEM
from jfreq.ranges import brief, shown
from jfreq.types import InputError, PyTree

FIELDS = {
    "learning_rate": "lr",
    "weight_decay": "weight_decay",
    "mask": "decay",
    "weight_decay_mask": "decay",
    "b1": "b1",
    "b2": "b2",
    "eps": "eps",
    "mu_dtype": "mu_dtype",
}
"""Arguments of optax's optimisers, and the fields of ``Optim`` that set them."""


def schedule(cfg: Optim, steps: int) -> optax.Schedule:
    """Learning rate by step of a run of ``steps``: linear warm-up, then constant, cosine or steps
    down, and at the end the cooldown. What ``plateau`` has come down by is not in it, but in the
    state of the optimiser."""
    main = _before_cooldown(cfg, cfg.schedule_steps or steps)
    if not cfg.cooldown:
        return main
    begin, end = steps - cfg.cooldown, cfg.final_lr * cfg.lr

    def cooled(step: Any) -> jax.Array:
        part = jnp.maximum(step - begin, 0) / cfg.cooldown
        return jnp.asarray(main(jnp.minimum(step, begin)) * (1 - part) + end * part)

    return cooled


def _before_cooldown(cfg: Optim, steps: int) -> optax.Schedule:
    warmup = min(cfg.warmup or round(cfg.warmup_fraction * steps), steps // 2)
    rest = max(1, steps - warmup)
    if cfg.schedule in ("constant", "plateau"):
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


def decay_mask(cfg: Optim, params: PyTree) -> PyTree:
    """True for the parameters that weight decay reaches: by default kernels, never biases,
    norms, tokens or position tables. Raises ``InputError`` for a pattern that matches nothing."""
    param_paths.check_patterns("optim.decay", cfg.decay, params)
    return _decays(cfg, params)


def _decays(cfg: Optim, params: PyTree) -> PyTree:
    return param_paths.map_paths(
        lambda path, _: param_paths.first_match(path, cfg.decay) is not None, params
    )


def rate_multipliers(cfg: Optim, params: PyTree, stem: Sequence[str] = STEM) -> PyTree:
    """A factor for each parameter: first matching ``lr_mult``, times the layer decay.

    For a stack of blocks ``[l ...]`` the factor is an array over ``l``; ``stem`` is what comes
    before the first block, as in :attr:`jfreq.method.Method.stem`, and is slowed too where
    ``layer_decay_of`` is ``all``. Raises ``InputError`` for a pattern of the config that matches
    nothing.
    """
    leaves = param_paths.flatten(params)
    patterns = [pattern for pattern, _ in cfg.lr_mult]
    param_paths.check_patterns("optim.lr_mult", patterns, params)
    early = {path for path in leaves if _is_early(path, stem)}
    stacks = [
        leaf.shape[0] for path, leaf in leaves.items() if "/blocks/" in path and path not in early
    ]
    before = cfg.layer_decay ** ((stacks[0] if stacks else 0) + 1)

    def factor(path, leaf):
        hit = param_paths.first_match(path, patterns)
        scale = 1.0 if hit is None else cfg.lr_mult[hit][1]
        if path in early:
            return np.float32(scale * (before if cfg.layer_decay_of == "all" else 1.0))
        if "/blocks/" in path:
            powers = cfg.layer_decay ** np.arange(leaf.shape[0], 0, -1, dtype=np.float64)
            return (scale * powers).astype(np.float32).reshape(-1, *[1] * (leaf.ndim - 1))
        return np.float32(scale)

    return param_paths.map_paths(factor, params)


def _is_early(path: str, stem: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in stem)


def rates(cfg: Optim, steps: int) -> dict[str, Callable[[Any, PyTree], jax.Array]]:
    """The learning rates of a run, float32, as functions of the step and the optimiser's state, by
    the names that they are logged under: ``lr``, and for every group ``lr/PATTERN``."""

    def rate(part: Optim) -> Callable[[Any, PyTree], jax.Array]:
        main = schedule(part, steps)

        def at(step: Any, opt: PyTree) -> jax.Array:
            found = jnp.asarray(main(step), jnp.float32)
            if part.schedule == "plateau":
                found = found * next(iter(_plateau_leaves(opt).values()))
            return found

        return at

    groups = {f"lr/{group.pattern}": rate(group.over(cfg)) for group in cfg.groups}
    return {"lr": rate(cfg), **groups}


def follows_plateau(cfg: Optim) -> bool:
    """Whether a learning rate falls where the figure of validation stands still."""
    return "plateau" in (cfg.schedule, *(group.schedule for group in cfg.groups))


class _Plateau(NamedTuple):
    """What the learning rate has come down by, a float32 scalar from 1."""

    plateau: jax.Array


def _by_plateau() -> optax.GradientTransformation:
    """Updates times a factor that stays as it is until :func:`at_plateau` changes it."""

    def init(params: PyTree) -> Any:
        del params
        return _Plateau(jnp.ones(()))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        del params
        return jax.tree.map(lambda u: u * state.plateau.astype(u.dtype), updates), state

    return optax.GradientTransformation(init, update)


def _plateau_leaves(opt: PyTree) -> dict[str, jax.Array]:
    leaves = param_paths.flatten(opt)
    return {path: leaf for path, leaf in leaves.items() if path.split("/")[-1] == "plateau"}


def at_plateau(opt: PyTree, factor: float) -> PyTree:
    """The optimiser's state after which learning rates are ``factor`` times those of the
    schedule, where it is ``plateau``; placed as it was."""
    known = _plateau_leaves(opt)

    def changed(path: str, leaf: jax.Array) -> jax.Array:
        if path not in known:
            return leaf
        return jax.device_put(np.float32(factor), leaf.sharding)

    return param_paths.map_paths(changed, opt)


def make(
    cfg: Optim, *, steps: int, params: PyTree, stem: Sequence[str] = STEM
) -> optax.GradientTransformation:
    """The transformation for parameters of this shape (arrays or ``ShapeDtypeStruct``); ``stem`` as
    in :func:`rate_multipliers`.

    Raises ``InputError`` for an optimiser, an option or a pattern that does not exist, and for an
    optimiser that asks for more than gradients and parameters.
    """
    param_paths.check_patterns("optim.groups", [group.pattern for group in cfg.groups], params)
    if any(part.weight_decay for part in (cfg, *cfg.groups)):
        param_paths.check_patterns("optim.decay", cfg.decay, params)
    if not cfg.kind.startswith("optax."):
        return _built(cfg, steps, params, stem)
    try:
        optimiser = _built(cfg, steps, params, stem)
        jax.eval_shape(lambda p: optimiser.update(p, optimiser.init(p), p), params)
    except InputError:
        raise
    except Exception as error:  # whatever stands in that function
        reason = brief(" ".join(str(error).split()))
        raise InputError(
            f"optim.kind: {cfg.kind} cannot be used with these settings ({reason}); it is given a "
            "schedule, gradients and parameters, and nothing else"
        ) from error
    return optimiser


def _built(
    cfg: Optim, steps: int, params: PyTree, stem: Sequence[str]
) -> optax.GradientTransformation:
    scaled = cfg.lr_mult or cfg.layer_decay < 1
    factors = param_paths.flatten(rate_multipliers(cfg, params, stem)) if scaled else None
    chain = _chain(cfg, steps, factors)
    if cfg.groups:
        patterns = [group.pattern for group in cfg.groups]
        labels = param_paths.map_paths(
            lambda path, _: str(param_paths.first_match(path, patterns)), params
        )
        parts = {str(i): group.over(cfg) for i, group in enumerate(cfg.groups)} | {"None": cfg}
        chains: dict[Hashable, optax.GradientTransformation] = {
            name: optax.chain(*_chain(part, steps, factors)) for name, part in parts.items()
        }
        chain = [optax.partition(chains, labels)]
    if cfg.clip is not None:
        chain = [optax.clip_by_global_norm(cfg.clip), *chain]
    return optax.chain(*chain)


def _chain(
    cfg: Optim, steps: int, factors: dict[str, Any] | None
) -> list[optax.GradientTransformation]:
    """Update rule, decay, factors and learning rate, in this order."""
    rate, decays = schedule(cfg, steps), functools.partial(_decays, cfg)
    scale = [] if factors is None else [_scale_by(factors)]
    scale += [_by_plateau()] if cfg.schedule == "plateau" else []
    if cfg.kind.startswith("optax."):
        return [*_by_name(cfg, rate, decays), *scale]
    rule = [optax.scale_by_adam(**_arguments(cfg, optax.scale_by_adam))]
    if cfg.weight_decay:
        decay = [optax.add_decayed_weights(cfg.weight_decay, mask=decays)]
        rule = decay + rule if cfg.kind == "adam_l2" else rule + decay
    return [*rule, *scale, optax.scale_by_learning_rate(rate)]


def _by_name(
    cfg: Optim, rate: optax.Schedule, decays: Callable[[PyTree], PyTree]
) -> list[optax.GradientTransformation]:
    """An optimiser of optax with the schedule of the config as its learning rate.

    One that has a weight decay with a mask (LARS, LAMB) gets that of the config and gives it its
    meaning. For the others decay is decoupled (Loshchilov and Hutter): theirs is off, and beside
    the update the parameters shrink by learning rate times decay. Muon is one of these, because its
    mask does not reach the parameters that it leaves to Adam.
    """
    function = _optimiser(cfg.kind)
    takes = inspect.signature(function).parameters
    given, behind = _arguments(cfg, function), []
    mask = next((name for name in ("mask", "weight_decay_mask") if name in takes), None)
    if "weight_decay" in takes:
        given["weight_decay"] = 0.0
    if "weight_decay" in takes and mask and "adam_weight_decay" not in takes:
        given |= {"weight_decay": cfg.weight_decay, mask: decays}
    elif cfg.weight_decay:
        # The update is added to the parameters and has its sign already.
        minus = -cfg.weight_decay
        behind = [optax.add_decayed_weights(lambda step: minus * rate(step), mask=decays)]
    if "muon_weight_dimension_numbers" in takes:
        given["muon_weight_dimension_numbers"] = functools.partial(param_paths.map_paths, _matrix)
    return [function(rate, **given), *behind]


def _optimiser(kind: str) -> Callable[..., optax.GradientTransformation]:
    """The function of optax that ``kind`` names."""
    # Schedule-free optimisers train and evaluate different parameters, which the loop does not do.
    known = {
        f"{home.__name__}.{name}": function
        for home in (optax, optax.contrib)
        for name, function in inspect.getmembers(home, inspect.isfunction)
        if next(iter(inspect.signature(function).parameters), "") == "learning_rate"
        and not name.startswith(("_", "scale_by_", "schedule_free"))
    }
    if kind not in known:
        raise InputError(
            f"optim.kind: no optimiser {shown(kind)}{close_match(kind, known)}; "
            "docs/training.md lists those of optax"
        )
    return known[kind]


def _arguments(cfg: Optim, function: Callable) -> dict[str, Any]:
    """The arguments of ``function`` that the config sets, checked against its signature."""
    takes = inspect.signature(function).parameters
    common = {name: getattr(cfg, name) for name in ("b1", "b2", "eps")}
    given = {name: value for name, value in common.items() if value is not None}
    if "mu_dtype" in takes or cfg.mu_dtype != "float32":
        given["mu_dtype"] = cfg.mu_dtype
    for name in given:
        check(name in takes, f"optim.{name}", f"{cfg.kind} has no {name}; leave it out")
    for name, value in cfg.options:
        check(name not in FIELDS, "optim.options", f"{name} is set by optim.{FIELDS.get(name)}")
        check(name in takes, "optim.options", f"{cfg.kind} has no {name}{close_match(name, takes)}")
        _check_kind(name, value, takes[name].default)
        given[name] = value
    return given


def _check_kind(name: str, value: Any, default: Any) -> None:
    """``InputError`` for a value of another kind than the argument's default."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    good, wanted = True, ""
    if isinstance(default, bool):
        good, wanted = isinstance(value, bool), "True or False"
    elif isinstance(default, int):
        good, wanted = number and isinstance(value, int), "a whole number"
    elif isinstance(default, float):
        good, wanted = number or value is None, "a number"
    elif isinstance(default, str):
        good, wanted = isinstance(value, str), f"a word such as {default}"
    check(good, "optim.options", f"{name} must be {wanted}, got {shown(value)}")


def _matrix(path: str, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes of a parameter are inputs and outputs of a matrix, for Muon; None: not a matrix.

    The other axes count matrices: blocks ``[l ...]``, and queries, keys and values.
    """
    name = "/".join(path.split("/")[-2:])
    numbers = optax.contrib.MuonDimensionNumbers
    if not name.endswith("/kernel") or _is_early(path, STEM):
        return None
    if "/blocks/" not in path:
        return numbers(0, 1) if leaf.ndim == 2 else None
    if leaf.ndim == 3:
        return numbers(1, 2)
    attention = {
        "qkv/kernel": ((1,), (3, 4)),
        "kv/kernel": ((1,), (3, 4)),
        "q/kernel": ((1,), (2, 3)),
        "proj/kernel": ((1, 2), (3,)),
    }
    return numbers(*attention[name]) if name in attention else None


def _scale_by(factors: dict[str, Any]) -> optax.GradientTransformation:
    """Updates times the factors of their paths."""

    def scaled(path: str, update: jax.Array) -> jax.Array:
        return update * jnp.broadcast_to(factors[path], update.shape)

    return optax.stateless(lambda updates, params=None: param_paths.map_paths(scaled, updates))
