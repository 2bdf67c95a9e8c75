"""An audio encoder of MTEB (https://github.com/embeddings-benchmark/mteb), version 2.

``mteb.evaluate(load_model("encoder"), tasks)`` evaluates it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from mteb.models import ModelMeta  # pyright: ignore[reportMissingImports]
from mteb.models.abs_encoder import AbsEncoder  # pyright: ignore[reportMissingImports]

from jfreq import param_paths
from jfreq.config_json import to_dict
from jfreq.evaluate.features import params_hash
from jfreq.hub.sound import load_sound, sound_encoder
from jfreq.train.state import Trained
from jfreq.types import InputError

OTHERS = {"text", "image", "video"}
"""Columns of what it does not read."""


class AudioEncoder(AbsEncoder):
    """A frozen encoder: the clip vectors of recordings of any lengths and rates.

    It runs on the device that JAX has, whatever ``device`` MTEB names.
    """

    def __init__(
        self,
        model_name: str | None = None,
        revision: str | None = None,
        device: str | None = None,
        *,
        path: str | Path,
        normalize: bool = False,
    ):
        """Loads an encoder.

        Args:
          model_name: under which MTEB keeps results, ``organization/model``; None: ``jfreq/`` and
            the name of the experiment.
          revision: not used, a digest of settings and weights takes its place.
          device: not used.
          path: folder of a bundle or a run.
          normalize: divide each vector by its Euclidean norm.

        Raises:
          InputError: for an encoder that does not read one channel of sound, and for a name without
            an organization.
        """
        del revision, device
        if model_name is not None and "/" not in model_name:
            raise InputError(f"name: must be organization/model, got {model_name}")
        trained = load_sound(path, "MTEB")
        self.normalize = normalize
        self.encoder = sound_encoder(trained)
        self.mteb_model_meta = ModelMeta(
            loader=AudioEncoder,
            loader_kwargs={"path": str(path), "normalize": normalize},
            experiment_kwargs={"normalize": True} if normalize else None,
            name=model_name or f"jfreq/{trained.experiment.name}",
            embed_dim=self.encoder.clip_size,
            **_facts(trained),
        )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Clip vectors ``[n d]`` float32 of the recordings in ``inputs``, a ``DataLoader``.

        ``batch_size`` windows are computed at once, also of different recordings. Other
        arguments say where the recordings come from and change nothing.

        Raises:
          InputError: for a task with anything but audio, and for audio that states no rate, is not
            made of floats, is empty or not finite.
        """
        del hf_split, hf_subset, prompt_type, options
        columns = set(inputs.dataset.features)
        if "audio" not in columns or columns & OTHERS:
            raise InputError(
                f"{task_metadata.name}: hands over {', '.join(sorted(columns))}; the encoder reads "
                "audio and nothing else"
            )
        waves = self._waves(inputs)
        return self.encoder.encode(waves, batch_size=batch_size, normalize=self.normalize)

    def _waves(self, inputs: Any) -> Iterator[np.ndarray]:
        """The recordings one by one, ``[t 1]`` at the rate of the encoder."""
        (signal,) = self.encoder.signals
        items = (item for batch in inputs for item in batch["audio"])
        for i, item in enumerate(items):
            x, rate = np.asarray(item["array"]), item["sampling_rate"]
            if rate is None or x.dtype.kind != "f":
                raise InputError(
                    f"recording {i}: must be floats in [-1, 1] with a sampling_rate, got {x.dtype} "
                    f"at {rate} Hz"
                )
            # Channels come first, as torchcodec decodes them.
            mono = x.mean(0) if x.ndim == 2 else x
            yield self.encoder.clip(mono, rate, f"recording {i}")[signal.name]


def load_model(
    path: str | Path, *, normalize: bool = False, name: str | None = None
) -> AudioEncoder:
    """An encoder for ``mteb.evaluate``; arguments and what is raised as :class:`AudioEncoder`."""
    return AudioEncoder(name, path=path, normalize=normalize)


def _facts(trained: Trained) -> dict[str, Any]:
    """What MTEB keeps with results. Only equal encoders have equal revisions."""
    method, params = trained.experiment.method, trained.params
    what = json.dumps(to_dict(method), sort_keys=True) + params_hash(params)
    unknown = ("release_date", "languages", "max_tokens", "license", "open_weights",
               "public_training_code", "public_training_data", "training_datasets")  # fmt: skip
    return dict.fromkeys(unknown) | {
        "revision": hashlib.sha256(what.encode()).hexdigest()[:16],
        "n_parameters": param_paths.count(params),
        "n_embedding_parameters": 0,
        "memory_usage_mb": sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 2**20,
        "framework": ["JAX"],
        "similarity_fn_name": "cosine",
        "use_instructions": False,
        "modalities": ["audio"],
    }
