"""What methods with masked clones and an EMA teacher share (data2vec 2.0, EAT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

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

    The decay of the average rises linearly from ``ema[0]`` to ``ema[1]`` in ``ema_steps`` updates.
    """

    collapse_thresholds: ClassVar[Mapping[str, float]] = {
        "target_std": 0.1,
        "pred_std": 0.01,
        "rankme": 4.0,
    }
    """The first two are those at which data2vec 2.0 stops; the rank of 64 tokens is our choice."""
    teacher_part: ClassVar[str]
    """The part of the parameters that the teacher averages."""

    clones: Count = 16
    """Masks of every clip; the teacher reads the clip once for all of them."""
    target_layers: Count | None = None
    """How many of the last blocks of the teacher a target averages; None: all."""
    ema: tuple[BelowOne, BelowOne] = (0.9998, 0.99999)
    """Decay of the average at the first update, and from update ``ema_steps`` on."""
    ema_steps: Count = 100_000
    """Updates in which the decay rises, linearly."""

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return {
            **super().higher_is_better,
            **dict.fromkeys(("target_std", "pred_std", "rankme"), True),
        }

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
        import optax

        del aux
        done = jnp.minimum(jnp.asarray(step, jnp.float32) / self.ema_steps, 1.0)
        move = (1 - self.ema[0]) + (self.ema[0] - self.ema[1]) * done
        name = self.teacher_part
        return {name: optax.incremental_update(params[name], target[name], move)}


def gather_per_clone(x: Array, ids: Array) -> Array:
    """Tokens ``ids`` ``[r*b k]`` of ``x`` ``[b n d]``, which the r clones of a row share."""
    flat = take_tokens(x, ids.reshape(x.shape[0], -1))
    return flat.reshape(*ids.shape, x.shape[-1])


def collapse_diagnostics(
    targets: Array,
    pred: Array,
    *,
    tokens: Array | None = None,
    predicted: Array | None = None,
) -> Partial:
    """How varied targets and predictions are, over a few tokens of the batch.

    Args:
        targets: Targets of the teacher, ``[b n d]``.
        pred: Predictions of the student, ``[r m d]``.
        tokens: ``[b]``: only so many targets of a row count, from the first; None: all.
        predicted: ``[r]``: only so many predictions of a row count; None: all.

    Returns:
        A function that computes ``target_std`` and ``pred_std``, standard deviations over tokens,
        and ``rankme``, the effective rank of the targets: the ``diagnostics`` of a ``Loss``.
    """
    targets = collapse.sample_evenly(targets, SPREAD_TOKENS, tokens)
    pred = collapse.sample_evenly(pred, SPREAD_TOKENS, predicted)
    return Partial(_spread, targets, pred)


def _spread(targets: Array, pred: Array) -> Metrics:
    values = {
        "target_std": collapse.mean_std(targets),
        "pred_std": collapse.mean_std(pred),
        "rankme": collapse.rankme(targets),
    }
    return {name: (value, jnp.ones(())) for name, value in values.items()}
