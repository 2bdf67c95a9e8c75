"""Several processes that train as one: joining, agreeing to stop, values on every host.

Each process feeds its devices with its shard of every global batch; arrays are global, and process
0, the chief, writes what is written once.
"""

from __future__ import annotations

import atexit
import functools
import glob
import importlib.util
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jfreq.last_words import LastWords
from jfreq.ranges import first_line
from jfreq.types import InputError, PyTree

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
SLICES, SLICE, SLICE_ADDRESS = (
    "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS"
)  # fmt: skip
JOIN_TIMEOUT, LOST_AFTER = "JFREQ_JOIN_TIMEOUT_S", "JFREQ_LOST_AFTER_S"
SECONDS = {JOIN_TIMEOUT: 300, LOST_AFTER: 30}
"""How long processes wait for each other at the start, and for one that does not answer."""
GRACE_S = 3
"""How long the first process waits for the errors of the others before it ends in one."""
ABOVE = "the cause stands above, or with the process that was the first to end"


def start(env: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes, where the environment names any; call it before using devices.

    A process that should have joined others and cannot is an error, so that none ever trains alone
    by mistake. Once joined, one that dies or does not answer for ``JFREQ_LOST_AFTER_S`` ends all.

    Args:
        env: ``JAX_COORDINATOR_ADDRESS`` (host:port of process 0), ``JAX_NUM_PROCESSES`` and
            ``JAX_PROCESS_ID`` are read, or the variables of ``srun``, of Open MPI, of a TPU slice
            (``TPU_PROCESS_ADDRESSES`` or ``TPU_WORKER_HOSTNAMES``) and of several slices
            (``MEGASCALE_*``). ``JFREQ_JOIN_TIMEOUT_S`` says how long to wait for all to come.

    Raises:
        InputError: Only some of the variables are set, or the others cannot be found by them.
    """
    if jax.distributed.is_initialized():
        return
    named = _named(env)
    source, count = (ADDRESS, named["num_processes"]) if named else _launched(env)
    if count is not None:
        _join(source, count, named or {}, env)
    elif _has_tpu(env):
        _join_cloud_tpu(env)


def _join(source: str, count: int | None, named: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """Joins the ``count`` processes that ``source`` speaks of; None: jax finds out how many."""
    wait_s, lost_s = _seconds(env, JOIN_TIMEOUT), _seconds(env, LOST_AFTER)
    who = "the hosts" if count is None else f"the {count} processes"
    words = _last_words()
    words.say(
        f"jfreq: error: {source}: {who} did not find each other within {wait_s} s; start all of "
        f"them with the same settings, or set {JOIN_TIMEOUT} to wait longer"
    )
    try:
        jax.distributed.initialize(
            **named, initialization_timeout=wait_s, heartbeat_timeout_seconds=lost_s
        )
    except (RuntimeError, ValueError, OSError) as error:
        words.take_back()
        raise InputError(
            f"{source}: names {who.removeprefix('the ')}, but this one cannot join them "
            f"({first_line(error)}); set {ADDRESS}, {COUNT} and {INDEX} for each of them"
        ) from None
    if count not in (None, jax.process_count()):
        words.take_back()
        raise InputError(
            f"{source}: names {count} processes, but {jax.process_count()} have joined; start one "
            f"on each host, or set {ADDRESS}, {COUNT} and {INDEX}"
        )
    words.say(f"jfreq: error: {_lost(ABOVE, it='it was killed, or ')}")


def _has_tpu(env: Mapping[str, str]) -> bool:
    """Whether this is a machine with TPUs whose metadata say which slice it belongs to."""
    chips = any(glob.glob(pattern) for pattern in ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*"))
    return chips and importlib.util.find_spec("libtpu") is not None and (
        "TPU_SKIP_MDS_QUERY" not in env
    )  # fmt: skip


def _join_cloud_tpu(env: Mapping[str, str]) -> None:
    """Joins the hosts of a Cloud TPU slice by its metadata; without any, says that it is alone."""
    try:
        _join("the metadata of this TPU", None, {}, env)
    except InputError as error:
        logging.getLogger("jfreq").warning(
            "this host trains alone: nothing says whether others belong to its TPU (%s)", error
        )


def end_in_error(code: int, error: BaseException | None = None) -> None:
    """Ends this process at once with the exit ``code``, where it is one of several; else does
    nothing.

    A normal end waits for the others, and they may be waiting for this one. An ``error`` that
    another process has caused by ending is told in one line.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    if error is not None and any(sign in str(error) for sign in LOST_SIGNS):
        print(f"jfreq: error: {_lost(first_line(error))}", file=sys.stderr)
    elif error is not None:
        traceback.print_exception(error)
    if is_chief():  # without it all others are aborted; let them say what they have to say
        time.sleep(GRACE_S)
    _last_words().take_back()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


LOST_SIGNS = ("Gloo", "NCCL", "heartbeat", "oordination service", "Connection closed by peer")
"""Words of the errors of collectives and of the runtime where another process has ended."""


@functools.cache
def _last_words() -> LastWords:
    words = LastWords()

    def leave() -> None:
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()  # which may abort, if another process is lost by now
        words.take_back()

    atexit.register(leave)
    return words


def _lost(why: str, it: str = "") -> str:
    return (
        f"process {jax.process_index()} of {jax.process_count()} ends, because {it}another one has "
        f"died or no longer answers ({why}); start the same command on all hosts again, it "
        "continues from the last checkpoint"
    )


def _named(env: Mapping[str, str]) -> dict[str, Any] | None:
    """The processes as the plain variables name them."""
    names = (ADDRESS, COUNT, INDEX)
    given = [name for name in names if env.get(name)]
    if not given or (given == [ADDRESS] and _launched(env)[1]):
        return None  # a launcher says how many there are, the address overrides its own
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(
            f"environment: {', '.join(given)} set, but not {', '.join(missing)}; set all or none"
        )
    count, index = _whole(env, COUNT), _whole(env, INDEX)
    if not 0 <= index < count:
        raise InputError(f"environment: {INDEX}={index} is not in 0 to {COUNT} - 1 = {count - 1}")
    return {"coordinator_address": env[ADDRESS], "num_processes": count, "process_id": index}


def _whole(env: Mapping[str, str], name: str) -> int:
    text = env[name]
    if not text.isdecimal():
        raise InputError(f"environment: {name} must be a whole number, got {text!r}")
    return int(text)


def _seconds(env: Mapping[str, str], name: str) -> int:
    return max(1, _whole(env, name)) if env.get(name) else SECONDS[name]


def _launched(env: Mapping[str, str]) -> tuple[str, int | None]:
    """Which variable of a launcher names several processes, and how many; None where none does."""
    for source, count in (_slurm(env), _open_mpi(env), _tpu(env)):
        if count > 1:
            return source, count
    return "", None


def _slurm(env: Mapping[str, str]) -> tuple[str, int]:
    name = "SLURM_STEP_NUM_TASKS" if env.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    tasks = _whole(env, name) if env.get(name) else 1
    if tasks > 1 and not all(step in env for step in SLURM_STEP):
        raise InputError(
            f"environment: SLURM gives this job {tasks} tasks, but this process is none of them; "
            "start it with `srun jfreq ...`, or with `srun --ntasks 1 jfreq ...` to run alone"
        )
    return name, tasks


def _open_mpi(env: Mapping[str, str]) -> tuple[str, int]:
    name = "OMPI_COMM_WORLD_SIZE"
    return name, _whole(env, name) if env.get(name) else 1


def _tpu(env: Mapping[str, str]) -> tuple[str, int]:
    """The hosts of all slices."""
    name = next(
        (n for n in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES") if env.get(n)), SLICES
    )
    hosts = len(env[name].split(",")) if name != SLICES else 1
    slices = _whole(env, SLICES) if env.get(SLICES) else 1
    missing = [n for n in (SLICE, SLICE_ADDRESS) if not env.get(n)]
    if slices > 1 and missing:
        raise InputError(
            f"environment: {SLICES}={slices}, but {', '.join(missing)} not set; start the job so "
            "that every slice gets all of them (GKE's JobSet and queued resources do)"
        )
    return name, hosts * slices


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
