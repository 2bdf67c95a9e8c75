"""What methods with masked clones and an EMA teacher share (data2vec 2.0, EAT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jfreq.config import check
from jfreq.method import Method, Metrics
from jfreq.ops import collapse
from jfreq.ops.gather import take_tokens
from jfreq.ranges import BelowOne, Count, checked
from jfreq.types import Array, PyTree

SPREAD_TOKENS = 64
"""Teacher tokens whose spread is logged."""


@checked
class TeacherMethod(Method):
    """A student and its teacher, an exponential moving average (EMA) of ``teacher_part`` of the
    student's parameters.

    The teacher keeps ``ema[0]`` of itself at the first update and ``ema[1]`` from update
    ``ema_steps`` on, with a straight line between them.
    """

    collapse_thresholds: ClassVar[Mapping[str, float]] = {
        "target_std": 0.1,
        "pred_std": 0.01,
        "rankme": 4.0,
    }
    """The first two stop a run of data2vec 2.0; the rank of 64 tokens is ours."""
    teacher_part: ClassVar[str]
    """The part of the parameters that the teacher averages."""

    clones: Count = 16
    """Masks of every clip; the teacher reads the clip once for all of them."""
    target_layers: Count | None = None
    """How many of the teacher's last blocks a target averages; None: all."""
    ema: tuple[BelowOne, BelowOne] = (0.9998, 0.99999)
    """The fraction of itself that the teacher keeps at an update, at first and in the end."""
    ema_steps: Count = 100_000
    """Updates from the first to the last, in a straight line."""

    def check_target_layers(self, depth: int) -> None:
        """Raises ``InputError`` where an encoder of ``depth`` blocks has not enough of them."""
        check(
            self.target_layers is None or self.target_layers <= depth,
            "method.target_layers",
            f"must be {depth} or less, the blocks of the encoder, got {self.target_layers}",
        )

    def init_target(self, params: PyTree) -> PyTree:
        """The student's own parameters, float32."""
        part = params[self.teacher_part]
        return {self.teacher_part: jax.tree.map(lambda x: x.astype(jnp.float32), part)}

    def update_target(self, target: PyTree, params: PyTree, aux: PyTree, step: Any) -> PyTree:
        """The moving average of the student over its updates."""
        del aux
        done = jnp.minimum(jnp.asarray(step, jnp.float32) / self.ema_steps, 1.0)
        move = (1 - self.ema[0]) + (self.ema[0] - self.ema[1]) * done
        name = self.teacher_part
        return {name: optax.incremental_update(params[name], target[name], move)}


def gather_per_clone(x: Array, ids: Array) -> Array:
    """Tokens ``ids`` ``[r*b k]`` of ``x`` ``[b n d]``, which the r clones of a row share."""
    flat = take_tokens(x, ids.reshape(x.shape[0], -1))
    return flat.reshape(*ids.shape, x.shape[-1])


def collapse_metrics(
    targets: Array,
    pred: Array,
    *,
    tokens: Array | None = None,
    predicted: Array | None = None,
) -> Metrics:
    """How spread out targets ``[b n d]`` and predictions ``[r m d]`` are, over a few tokens.

    Args:
        targets: What the teacher gives.
        pred: What the student predicts.
        tokens: ``[b]``: how many targets of a row count, from the first; None: all.
        predicted: ``[r]``: the same of predictions.

    Returns:
        ``target_std`` and ``pred_std``, standard deviations over tokens, and ``rankme``, the
        effective rank of the targets.
    """
    some = collapse.some_vectors(targets, SPREAD_TOKENS, tokens)
    one = jnp.ones(())
    return {
        "target_std": (collapse.mean_std(some), one),
        "pred_std": (collapse.mean_std(collapse.some_vectors(pred, SPREAD_TOKENS, predicted)), one),
        "rankme": (collapse.rankme(some), one),
    }
