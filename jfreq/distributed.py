"""Several processes that train as one: joining, agreeing to stop, values on every host.

Each process feeds its devices with its shard of every global batch; arrays are global, and process
0, the chief, writes what is written once.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jfreq.ranges import first_line
from jfreq.types import InputError, PyTree

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
TIMEOUT_S = 300


def start(env: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes, where the environment names any; call it before using devices.

    Args:
        env: ``JAX_COORDINATOR_ADDRESS`` (host:port of process 0), ``JAX_NUM_PROCESSES`` and
            ``JAX_PROCESS_ID`` are read, or the variables that ``srun`` sets for a step of several
            tasks, or the list of hosts of a TPU pod.

    Raises:
        InputError: Only some of the variables are set, or the other processes do not answer.
    """
    if jax.distributed.is_initialized():
        return
    named = _named(env)
    if named is None and not _several_tasks(env) and not _several_hosts(env):
        return
    try:
        jax.distributed.initialize(**(named or {}), initialization_timeout=TIMEOUT_S)
    except RuntimeError as error:
        where = env.get(ADDRESS, "the coordinator of this job")
        raise InputError(
            f"{where}: the processes did not find each other ({first_line(error)}); "
            f"start all of them with the same {ADDRESS} and {COUNT}"
        ) from None


def _named(env: Mapping[str, str]) -> dict[str, Any] | None:
    """The processes as the plain variables name them."""
    names = (ADDRESS, COUNT, INDEX)
    given = [name for name in names if env.get(name)]
    if COUNT not in given and INDEX not in given:
        return None
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(
            f"environment: {', '.join(given)} set, but not {', '.join(missing)}; set all or none"
        )
    try:
        count, index = int(env[COUNT]), int(env[INDEX])
    except ValueError:
        raise InputError(
            f"environment: {COUNT} and {INDEX} must be whole numbers, got {env[COUNT]!r} and "
            f"{env[INDEX]!r}"
        ) from None
    if not 0 <= index < count:
        raise InputError(f"environment: {INDEX}={index} is not in 0 to {COUNT} - 1 = {count - 1}")
    return {"coordinator_address": env[ADDRESS], "num_processes": count, "process_id": index}


def _several_tasks(env: Mapping[str, str]) -> bool:
    tasks = env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or "1"
    return all(name in env for name in SLURM) and tasks.isdigit() and int(tasks) > 1


def _several_hosts(env: Mapping[str, str]) -> bool:
    return "," in env.get("TPU_WORKER_HOSTNAMES", "")


def is_chief() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def from_chief(decide: Callable[[], Any]) -> Any:
    """What ``decide()`` returns in process 0, a JSON value, in every process; only 0 calls it.

    An ``InputError`` there is raised in all of them, so that nobody waits for the others.
    """
    if jax.process_count() == 1:
        return decide()
    from jax.experimental.multihost_utils import broadcast_one_to_all

    outcome, failure = {}, None
    if is_chief():
        try:
            outcome = {"value": decide()}
        except Exception as error:
            failure = error
            outcome = {"error": str(error) or type(error).__name__}
    blob = json.dumps(outcome).encode()
    size = int(broadcast_one_to_all(np.int32(len(blob))))
    data = np.zeros(size, np.uint8)
    if is_chief():
        data[:] = np.frombuffer(blob, np.uint8)
    outcome = json.loads(np.asarray(broadcast_one_to_all(data), np.uint8).tobytes())
    if failure is not None:
        raise failure
    if "error" in outcome:
        raise InputError(outcome["error"])
    return outcome["value"]


def to_host(tree: PyTree) -> PyTree:
    """Whole arrays as numpy on every host, wherever they were sharded."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(tree, tiled=True)


def local_rows(rows: np.ndarray) -> np.ndarray:
    """This process's part ``[n]`` of ``rows``: every ``process_count``-th, at least one."""
    mine = rows[jax.process_index() :: jax.process_count()]
    return mine if len(mine) else rows[:1]


def gather_rows(values: Mapping[str, np.ndarray], total: int) -> dict[str, np.ndarray]:
    """Arrays over all ``total`` rows, in their order, from every process's :func:`local_rows`."""
    count = jax.process_count()
    if count == 1:
        return dict(values)
    from jax.experimental.multihost_utils import process_allgather

    longest = -(-total // count)
    padded = {k: np.resize(v, (longest, *v.shape[1:])) for k, v in values.items()}
    gathered = process_allgather(padded)
    return {
        k: np.asarray(v).swapaxes(0, 1).reshape(-1, *v.shape[2:])[:total]
        for k, v in gathered.items()
    }


def asked_to_stop(step: int, received: list[int]) -> int:
    """The signal that ends the run before ``step``, 0 for none; all processes get one answer.

    One process looks at the signals ``received``. Several wait for a step that all of them
    can reach after one was told to end by SIGTERM.
    """
    if jax.process_count() == 1:
        return received[0] if received else 0
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    return signal.SIGTERM if reached_preemption_sync_point(step) else 0
