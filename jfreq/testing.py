"""What tests of methods and modules need: batches of noise, abstract steps, processes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfreq import distributed, methods
from jfreq.config import Experiment, replace
from jfreq.method import Loss, Method, Streams
from jfreq.sharding import make_mesh
from jfreq.train.plan import plan_step
from jfreq.train.step import make_step
from jfreq.types import Array, Batch, BatchSpec, DataSpec, PyTree, SignalSpec

T = TypeVar("T", bound=Any)

CLIP = DataSpec((SignalSpec("audio", 16000, 20720),), ("a", "b", "c"))
"""1.295 s: 128 frames, none of them padding."""
SECOND = DataSpec((SignalSpec("audio", 16000, 16000),), ("a", "b"))
_FLAT = (0.0, 0.0, 1.0), (0.3, 0.3, 0.3)
"""Mean and standard deviation of a sensor that lies flat: 1 g along the third axis."""
MOTION = DataSpec(
    (SignalSpec("acc", 50, 128, 3, *_FLAT), SignalSpec("gyro", 50, 128, 3, *_FLAT)),
    ("a", "b"),
)
ACC_MIC = DataSpec(
    (SignalSpec("acc", 50, 128, 3, *_FLAT), SignalSpec("mic", 200, 512, 1, (0.1,), (0.2,)))
)
PUBLISHED = DataSpec(
    (SignalSpec("acc", 100, 512, 3), SignalSpec("gyro", 100, 512, 3)), tuple("abcdef")
)
"""The released STFNets read longer windows."""
MOD = DataSpec((SignalSpec("audio", 8000, 16000), SignalSpec("seismic", 100, 200)), ("a", "b"))
ACIDS = DataSpec((SignalSpec("audio", 1024, 1024, 3), SignalSpec("seismic", 1024, 1024, 2)), ("a",))


_SMALL = {
    "width": 48, "depth": 1, "heads": 2, "widths": 16, "hidden": 16, "sensor_width": 12,
    "depths": 1, "embedding": 32, "fusion": 32, "projection": 32, "clones": 2, "groups": 4,
    "time_projection": 16, "map_projection": 16, "blocks": 1, "target_layers": 1,
}  # fmt: skip
"""The most that a field of this name keeps."""


def small(cfg: T) -> T:
    """The config with every size cut to what a test needs."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(cfg):
        value, most = getattr(cfg, field.name), _SMALL.get(field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = small(value)
        elif most is not None and isinstance(value, tuple):
            changes[field.name] = tuple(min(x, most) for x in value)
        elif most is not None and isinstance(value, int):
            changes[field.name] = min(value, most)
    return dataclasses.replace(cfg, **changes)


def data_of(experiment: Experiment) -> DataSpec:
    """What a recipe is made for, in short clips."""
    sets = {"_hhar": PUBLISHED, "_wifi": PUBLISHED, "_mod": MOD, "_acids": ACIDS}
    for ending, spec in sets.items():
        if ending in experiment.name:
            return spec
    return SECOND if experiment.method.example_signals()[0].name == "audio" else MOTION


def batch_spec(spec: DataSpec, batch: int) -> BatchSpec:
    """Shapes of a batch of ``spec``, labels included."""
    return jax.eval_shape(functools.partial(fake_batch, spec, batch))


def fake_batch(spec: DataSpec, batch: int, *, seed: int = 0) -> Batch:
    """Noise of random loudness with labels in turn, full length."""
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for s in spec.signals:
        gain = 10 ** rng.uniform(-2, -0.5, (batch, 1, 1))
        out[s.name] = (gain * rng.normal(size=(batch, s.samples, s.channels))).astype(np.float32)
    label = np.arange(batch) % max(1, len(spec.labels))
    one_hot = np.eye(len(spec.labels), dtype=np.float32)
    out["label"] = one_hot[label] if spec.multi_label else label.astype(np.int32)
    out["length"] = np.full(batch, spec.signals[0].samples, np.int32)
    out["_mask"] = np.ones(batch, np.float32)
    with jax.ensure_compile_time_eval():  # a batch that a test keeps holds no tracers
        return {k: jnp.asarray(v) for k, v in out.items()}


def assert_step_specs(experiment: Experiment, spec: DataSpec) -> None:
    """Traces init, one update and encoding of an experiment on abstract arrays, in milliseconds."""
    rows = 4 * experiment.data.sequence
    experiment = methods.bind(replace(experiment, batch=rows, accumulate=1), spec)
    shapes = batch_spec(spec, rows)
    setup = plan_step(experiment, shapes, make_mesh((1, 1, 1), jax.devices()[:1]))
    before = setup.abstract
    after, metrics = jax.eval_shape(make_step(setup), before, shapes, setup.key_spec)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), before, after)
    assert all(jax.tree.leaves(same)), "an update changes shapes or dtypes of the state"
    for name, (total, count) in metrics.items():
        assert total.shape == count.shape == (), name
    features = jax.eval_shape(experiment.method.encode, before.params, shapes)
    assert features.clip.shape[0] == features.tokens.shape[0] == rows
    assert features.tokens.shape[1] == features.grid.size == features.valid.shape[1]


class Finished(NamedTuple):
    """What a process left behind."""

    code: int
    out: str
    err: str


def start_processes(
    command: Sequence[str], *, count: int = 2, devices: int = 2
) -> list[subprocess.Popen]:
    """Starts ``python COMMAND`` as ``count`` processes of ``devices`` forced CPU devices each.

    They find each other by the environment that :func:`jfreq.distributed.start` reads.
    """
    address = f"127.0.0.1:{free_port()}"
    flags = os.environ.get("XLA_FLAGS", "")
    flags = f"{flags} --xla_force_host_platform_device_count={devices}"
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "NPROC": "16",
        distributed.ADDRESS: address,
        distributed.COUNT: str(count),
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**env, distributed.INDEX: str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def object_store(scheme: str, bucket: str = "bucket") -> Iterator[dict[str, str]]:
    """An emulator of a store on loopback, with one empty bucket, until the end of the context.

    Args:
      scheme: ``s3``, for which moto is needed, or ``gs``, for which gcp-storage-emulator is.

    Yields:
      The environment variables by which drivers find it.
    """
    port = free_port()
    where = f"http://127.0.0.1:{port}"
    if scheme == "s3":
        words = ["moto.server", "-H", "127.0.0.1", "-p", str(port)]
        env = {"AWS_ENDPOINT_URL": where, "AWS_ACCESS_KEY_ID": "test",
               "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    else:
        words = ["gcp_storage_emulator", "start", "--in-memory", "--host", "127.0.0.1", "--port",
                 str(port), "--default-bucket", bucket]  # fmt: skip
        env = {"STORAGE_EMULATOR_HOST": where, "FSSPEC_GCS_TOKEN": "anon",
               "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        quiet = subprocess.DEVNULL
        server = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=folder, stdout=quiet, stderr=quiet
        )
        try:
            _answers(port, server)
            if scheme == "s3":
                urllib.request.urlopen(urllib.request.Request(f"{where}/{bucket}", method="PUT"))
            yield env
        finally:
            server.kill()
            server.wait()


def _answers(port: int, server: subprocess.Popen, limit_s: float = 60) -> None:
    """Waits until a server accepts connections."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"{server.args} does not answer")


def finish_processes(runs: Sequence[subprocess.Popen], *, limit_s: float = 240) -> list[Finished]:
    """Waits for all processes; at the limit they are killed and ``TimeoutError`` is raised.

    They get SIGKILL, because a process that waits for others in ``jax.distributed`` ignores
    SIGTERM.
    """
    end = time.monotonic() + limit_s
    finished, late = [], False
    for run in runs:
        try:
            out, err = run.communicate(timeout=max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            late = True
            for other in runs:
                other.kill()
            out, err = run.communicate()
        finished.append(Finished(run.returncode, out, err))
    if late:
        raise TimeoutError(f"not done after {limit_s:g} s: {finished}")
    return finished


class Compiled:
    """Functions of a module, each as one program: far fewer compilations than op by op.

    Arrays are traced, everything else (numbers, words, grids) is static and must be hashable.
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)

        @functools.wraps(function)
        def run(*args, **options):
            traced = [i for i, x in enumerate(args) if _is_array(x)]
            named = {k: x for k, x in options.items() if _is_array(x)}
            static = tuple(x for i, x in enumerate(args) if i not in traced)
            more = tuple((k, x) for k, x in options.items() if k not in named)
            program = _program(function, tuple(traced), static, more)
            return program([args[i] for i in traced], named)

        return run


def _is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray, list, dict))


@functools.cache
def _program(function, traced: tuple[int, ...], static: tuple, options: tuple) -> Any:
    def run(arrays, named):
        args = list(static)
        for i, x in zip(traced, arrays):
            args.insert(i, x)
        return function(*args, **dict(options), **named)

    return jax.jit(run)


# ------------------------------------------------------------------ methods that learn


def filled(method: Method, seed: int = 0) -> PyTree:
    """Random parameters of the right shapes, without compiling the initialisers."""
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: 0.5 * rng.normal(size=p.shape).astype(p.dtype), shapes)


@functools.cache
def compiled(method: Method, name: str) -> Any:
    """A function of a method as one program, which all tests of equal methods share."""
    return jax.jit(getattr(method, name))


@functools.partial(jax.jit, static_argnums=0)
def loss_and_grad(method: Method, params: PyTree, batch: Batch, key: Array) -> tuple[Loss, PyTree]:
    """The loss of a method without a target at update 0, and its gradient; compiled."""

    def objective(params: PyTree) -> tuple[Array, Loss]:
        loss = method.loss(params, {}, batch, Streams(key), 0)
        return loss.value, loss

    (_, loss), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return loss, grads


def fitted(
    method: Method, params: PyTree, batch: Batch, *, steps: int, lr: float = 3e-3
) -> tuple[PyTree, list[float]]:
    """Parameters after ``steps`` updates by Adam on one batch, and the loss before each."""
    optimiser = optax.adam(lr)

    @jax.jit
    def updated(params, state, grads):
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state

    state, values = optimiser.init(params), []
    for i in range(steps):
        loss, grads = loss_and_grad(method, params, batch, jax.random.key(i))
        params, state = updated(params, state, grads)
        values.append(float(loss.value))
    return params, values


# ------------------------------------------------------------------ modules over maps [b t f d]


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def forward(net, **static) -> Any:
    """``(params, x) -> y``, compiled."""
    return jax.jit(lambda p, x: net.apply({"params": p}, x, **static))


def trained(net) -> Any:
    """``(params, x, key) -> y`` with dropout."""
    return jax.jit(lambda p, x, key: net.apply({"params": p}, x, train=True, rngs={"dropout": key}))


def made(net, x, seed=0):
    """The module's parameters, moved off their initial values."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(0.5 * rng.normal(size=p.shape), jnp.float32), shapes)


def cells(x) -> set[tuple[int, int]]:
    """Frames and bins where a map ``[t f d]`` is not zero."""
    return {(t, f) for t, f in np.argwhere(np.abs(np.asarray(x)).max(-1) > 0).tolist()}


def frames(net, params, x, at) -> list[int]:
    """Frames that change when the whole frame ``at`` does."""
    apply, other = forward(net), x.at[:, at].set(noise(*x[:, at].shape, seed=9))
    return sorted({t for t, _ in cells((apply(params, other) - apply(params, x))[0])})
