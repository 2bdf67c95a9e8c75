"""A method of jfreq and its PyTorch reference on the same weights, and whether they agree."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import common
import jax
import numpy as np
from method_cases import Batch, Case

from jfreq import param_paths
from jfreq.kernels import cpu
from jfreq.method import Streams
from jfreq.types import InputError

EAGER, COMPILED = "torch eager", "torch.compile"


def jfreq_step(case: Case, batch: Batch) -> common.Step:
    """jfreq's step, with noise on all parameters, so that none starts at a value that hides
    others, such as 0."""
    step = common.jfreq_step(case.experiment, batch)
    state, rng = step.state, np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: np.asarray(x) + 0.02 * rng.normal(size=x.shape).astype(np.float32), state.params
    )
    target = step.spec.experiment.method.init_target(params)
    new = state._replace(params=params, target=target)
    step.state = jax.tree.map(lambda x, old: jax.device_put(np.array(x), old.sharding), new, state)
    return step


def host(params: Any) -> dict[str, np.ndarray]:
    return param_paths.flatten(jax.device_get(params))


def drawn(case: Case, step: common.Step, batch: Batch) -> tuple[Any, ...]:
    """What jfreq's first step draws, as tensors."""
    import torch

    method = step.spec.experiment.method
    found = [np.asarray(x) for x in case.draw(method, Streams(step.key).at(0), batch)]
    return tuple(
        torch.from_numpy(np.array(x, np.int64 if x.dtype == np.int32 else x.dtype)) for x in found
    )


def agreement(case: Case, step: common.Step, batch: Batch) -> dict[str, float]:
    """Loss and gradient norm of the first step of both. Raises ``InputError`` where they differ."""
    import torch

    model = case.model(step.spec.experiment.method)
    model.load(host(step.state.params))
    loss = model(*case.inputs(model, batch), drawn=drawn(case, step, batch))
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    return common.agreement(step(), {"loss": loss.item(), "grad_norm": norm.item()})


def encoders(
    case: Case, step: common.Step, batch: Batch, others: tuple[str, ...] = (EAGER,)
) -> dict[str, Callable[[], np.ndarray]]:
    """Calls that give the clip vectors of a batch: those of jfreq, and of ``others``."""
    import torch

    method, params = step.spec.experiment.method, step.state.params
    given = {name: jax.device_put(x) for name, x in batch.items() if name != "label"}
    method = method.without_head if method.supervised else method
    params = params["backbone"] if step.spec.experiment.method.supervised else params
    run = jax.jit(
        lambda params, batch: method.encode(params, batch).clip,
        compiler_options=cpu.compiler_options(),
    )
    model = case.model(step.spec.experiment.method).eval()
    model.load(host(step.state.params))
    inputs = case.inputs(model, batch)

    def embed(forward: Callable[..., Any]) -> np.ndarray:
        with torch.inference_mode():
            return forward(*inputs).cpu().numpy()

    calls: dict[str, Callable[[], np.ndarray]] = {"jfreq": lambda: np.asarray(run(params, given))}
    for name in others:
        forward = torch.compile(model.embed) if name == COMPILED else model.embed
        calls[name] = functools.partial(embed, forward)
    return calls


def same_vectors(calls: dict[str, Callable[[], np.ndarray]]) -> float:
    """The largest difference of clip vectors, in units of the largest number. Raises ``InputError``
    above 1e-3."""
    ours = calls["jfreq"]()
    worst = max(float(np.abs(call() - ours).max()) for call in calls.values())
    worst /= float(np.abs(ours).max())
    if not worst <= 1e-3:
        raise InputError(f"clip vectors differ by {worst:.3g}, nothing is timed")
    return worst
