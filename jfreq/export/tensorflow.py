"""How TensorFlow is used for writing: on the CPU, and without its lines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def leave_accelerators() -> None:
    """Keeps TensorFlow on the CPU: it would take the memory of the GPU that jax computes on."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # it has started, and has what it has
        tf.config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """TensorFlow without its lines about progress, and without the dumps of its converter."""
    import tensorflow as tf

    logger = tf.get_logger()
    before = logger.level
    logger.setLevel("ERROR")
    sys.stderr.flush()
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)
        logger.setLevel(before)
