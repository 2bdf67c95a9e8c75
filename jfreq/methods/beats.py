"""BEATs: a model that predicts the codes of masked patches, and the tokenizers of these codes.

Chen, Wu, Wang, Liu, Tompkins, Chen, Che, Yu and Wei, ICML 2023 (arXiv 2212.09058). The first
:class:`BEATs` predicts the codes of a random projection, a :class:`BEATsTokenizer` distils what it
has learned into a codebook, the next :class:`BEATs` predicts the codes of that, and so on.

The encoder is the released one (microsoft/unilm, ``beats/``), whose weights ``jfreq import`` reads.
How it was pre-trained is not released; what is not in the paper either is our choice and said where
it is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfreq import losses, masks
from jfreq.method import Loss, Metrics, Rows, Streams, part_of
from jfreq.methods.common.beats_parts import PUBLISHED, BEATsPatches, Predictor, Quantiser
from jfreq.methods.common.patches import PatchMethod
from jfreq.nn.apply import apply
from jfreq.nn.vit import ViT
from jfreq.ops import codebook
from jfreq.ops.gather import masked_tokens, restore_tokens, take_entries, visible_tokens
from jfreq.ops.patch import embed_patches
from jfreq.ranges import BelowOne, Between, Count, NonNegative, Seed, Size, checked
from jfreq.types import Array, Batch, Mask, PyTree, Reconstruction

# ------------------------------------------------------------------ tokenizers, frozen


@checked
class RandomProjection:
    """Tokenizer of the first iteration: a random projection and random codes (section 3.2.1).

    A patch gets the code with the smallest angle, as in Chiu et al. 2022 (arXiv 2202.01855), where
    the method comes from; in the equation of BEATs the lengths of vectors count too.
    """

    codes: Count = 1024
    code_width: Size = 256
    seed: Seed = 0
    """Seed of the projection and of the codes."""

    def init(self, method: PatchMethod) -> PyTree:
        """``projection`` ``[p d]`` and ``codes`` ``[k d]``."""
        first, last = jax.random.split(jax.random.key(self.seed))
        size = method.geometry.patch_size
        return {
            "projection": codebook.random_projection(first, size, self.code_width),
            "codes": codebook.random_codes(last, self.codes, self.code_width),
        }

    def tokenize(self, method: PatchMethod, state: PyTree, spec: Array, valid: Array) -> Array:
        """Codes ``[b n]`` of the patches of ``spec`` ``[b t f c]``."""
        del valid
        patch = method.geometry.patch
        vectors = embed_patches(
            spec, state["projection"], patch=patch, stride=patch, order=method.order
        )
        return codebook.nearest(vectors, state["codes"])


@checked
class TrainedTokenizer:
    """Encoder and codebook of a :class:`BEATsTokenizer`; its fields are to be set as there. The run
    that trained them is a source of ``checkpoint.init_from``."""

    codes: Count = 1024
    code_width: Size = 256
    encoder: ViT = PUBLISHED

    def init(self, method: PatchMethod) -> PyTree:
        """Fresh ``trunk``, ``to_code`` and ``codebook``."""
        key, example = jax.random.key(0), method.geometry.example
        params = self._net(method).init(key, example)["params"]
        return {**params, "codebook": fresh_codebook(self.codes, self.code_width)}

    def tokenize(self, method: PatchMethod, state: PyTree, spec: Array, valid: Array) -> Array:
        """Codes ``[b n]`` of the patches of ``spec`` ``[b t f c]``; padding is not attended to."""
        params = {name: state[name] for name in ("trunk", "to_code")}
        vectors = apply(self._net(method), params, spec, valid)
        return codebook.nearest(vectors, state["codebook"]["codes"])

    def _net(self, method: PatchMethod) -> Quantiser:
        return Quantiser(method.trunk.clone(encoder_cfg=self.encoder), self.code_width)


def fresh_codebook(count: int, width: int) -> dict[str, Array]:
    """``codes`` ``[k d]`` and their ``usage`` ``[k]``, as :func:`codebook.follow` has it."""
    return {
        "codes": codebook.random_codes(jax.random.key(0), count, width),
        "usage": jnp.zeros(count),
    }


# ------------------------------------------------------------------ the model


@checked
class BEATs(BEATsPatches):
    """The codes of masked patches, predicted from the visible ones (section 3.3).

    The encoder reads the visible patches alone. A small transformer, needed for training only,
    reads their states, with zeros in place of masked patches, and predicts the codes of these.
    """

    headline: ClassVar[tuple[str, ...]] = ("accuracy", "perplexity")

    mask_ratio: Between = 0.75
    predictor: ViT = dataclasses.replace(PUBLISHED, depth=3)
    """The transformer that predicts the codes."""
    tokenizer: RandomProjection | TrainedTokenizer = RandomProjection()

    def __post_init__(self):
        super().__post_init__()
        if self.bound:
            self.check_visible(self.mask_ratio, self.grid.size - self.masked)

    @property
    def trained_elsewhere(self) -> tuple[str, ...]:
        return ("tokenizer",) if isinstance(self.tokenizer, TrainedTokenizer) else ()

    @property
    def masked(self) -> int:
        """Masked patches of a clip."""
        return round(self.grid.size * self.mask_ratio)

    def sample_mask(self, key: Array, rows: int) -> Mask:
        """Masks of ``rows`` clips, uniform over the patches."""
        return masks.random(key, rows, self.grid, self.masked)

    def init(self, key: Array) -> PyTree:
        mask_key, key = jax.random.split(key)
        mask, valid = self.sample_mask(mask_key, 1), jnp.ones((1, self.grid.size), bool)
        return _Model(self).init(key, self.geometry.example, mask, valid)["params"]

    def init_target(self, params: PyTree) -> PyTree:
        """The ``tokenizer``, which is not trained."""
        del params
        return {"tokenizer": self.tokenizer.init(self)}

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        """Cross-entropy over the masked patches that lie in the signal (equation 4)."""
        del step
        batch = self.with_spectrogram(batch)
        spec = batch["spectrogram"]
        valid = self.read_tokens(batch)
        counted = valid & real_rows(batch, spec.shape[0])
        mask = self.sample_mask(rngs("mask"), spec.shape[0])
        codes = self.tokenizer.tokenize(self, target["tokenizer"], spec, valid)
        logits = apply(_Model(self), params, spec, mask, valid, train=True, dropout=rngs("dropout"))
        truth, inside = take_entries(codes, mask.masked), take_entries(counted, mask.masked)
        terms = {
            "loss": losses.code_cross_entropy(logits, truth, valid=inside),
            "accuracy": losses.code_accuracy(logits, truth, valid=inside),
        }
        return loss_of(terms, codebook.counts(codes, self.tokenizer.codes, valid=counted), {})

    def reconstruct(self, params, batch: Batch, rngs: Streams) -> Reconstruction:
        """A mask without a reconstruction: the model predicts codes, not a spectrogram."""
        del params
        return self.show_mask(batch, lambda rows: self.sample_mask(rngs("mask"), rows))


# ------------------------------------------------------------------ the tokenizer


@checked
class BEATsTokenizer(BEATsPatches):
    """A codebook distilled from a trained encoder (section 3.2.2).

    An encoder reads a clip, the nearest code stands for each of its states, and an estimator
    predicts the states of the teacher from these codes alone. The run that trained the teacher is a
    source of ``checkpoint.init_from``.

    The codebook is a moving average over the vectors of each code. It starts from vectors of the
    first batch (released: from ten steps of k-means on them).
    """

    headline: ClassVar[tuple[str, ...]] = ("cosine", "perplexity")

    teacher: ViT = PUBLISHED
    """The encoder that is distilled."""
    estimator: ViT = dataclasses.replace(PUBLISHED, depth=3)
    codes: Count = 1024
    code_width: Size = 256
    decay: BelowOne = 0.99
    """Decay of the moving average of the codes."""
    commitment: NonNegative = 1.0
    """Weight of the mean squared error between vectors and codes, both of length 1."""
    restart_below: NonNegative = 0.01
    """A code that is used less than this fraction of the average code is replaced by a vector of
    the batch (our addition); 0: never."""

    @property
    def trained_elsewhere(self) -> tuple[str, ...]:
        return ("teacher",)

    @property
    def stored_target(self) -> tuple[str, ...]:
        return ("codebook",)

    @property
    def teacher_method(self) -> PatchMethod:
        """The encoder that is distilled, as a method on the same patches."""
        return dataclasses.replace(part_of(BEATsPatches, self), encoder=self.teacher)

    @property
    def _net(self) -> _Distilled:
        return _Distilled(self.trunk, self.code_width, self.estimator, self.teacher.width)

    def init(self, key: Array) -> PyTree:
        codes = fresh_codebook(self.codes, self.code_width)["codes"]
        example, valid = self.geometry.example, jnp.ones((1, self.grid.size), bool)
        return self._net.init(key, example, valid, codes, method=_Distilled.estimate)["params"]

    def init_target(self, params: PyTree) -> PyTree:
        """The ``teacher``, which is not trained, and the ``codebook``."""
        del params
        return {
            "teacher": self.teacher_method.init(jax.random.key(0)),
            "codebook": fresh_codebook(self.codes, self.code_width),
        }

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        """Cosine distance to the teacher and commitment, over all patches (equation 3)."""
        del step
        batch = self.with_spectrogram(batch)
        spec, target = batch["spectrogram"], jax.lax.stop_gradient(target)
        codes = target["codebook"]["codes"]
        truth = self.teacher_method.encode(target["teacher"], batch)
        valid = self.read_tokens(batch)
        counted = valid & real_rows(batch, spec.shape[0])
        inputs, estimate = (spec, valid, codes), _Distilled.estimate
        vectors, ids, pred = apply(
            self._net, params, *inputs, method=estimate, train=True, dropout=rngs("dropout")
        )
        distance, count = losses.cosine_distance(pred, truth.tokens, valid=counted)
        error = jnp.mean(jnp.square(vectors - jnp.take(codes, ids, axis=0)), axis=-1)
        commitment = jnp.sum(error * counted, axis=-1)
        terms = {
            "loss": (distance + self.commitment * commitment, count),
            "cosine": (count - distance, count),
            "commitment": (commitment, count),
        }
        vectors = jax.lax.stop_gradient(vectors)
        sums, counts = codebook.statistics(vectors, ids, self.codes, valid=counted)
        sample = codebook.sample_vectors(rngs("restart"), vectors, self.codes, valid=counted)
        aux = {"sums": sums, "counts": counts, "vectors": Rows(sample)}
        return loss_of(terms, counts, aux)

    def update_target(self, target: PyTree, params: PyTree, aux: PyTree, step: Any) -> PyTree:
        """The codebook after a batch: codes follow their vectors, unused ones start again."""
        del params
        book = target["codebook"]
        codes, usage = codebook.follow(
            book["codes"], book["usage"], aux["sums"], aux["counts"], decay=self.decay
        )
        unused = (usage < self.restart_below) | (jnp.asarray(step) == 0)
        vectors = aux["vectors"].array.reshape(-1, self.code_width)
        codes, usage = codebook.restart(codes, usage, vectors, unused)
        return {**target, "codebook": {"codes": codes, "usage": usage}}


def real_rows(batch: Batch, rows: int) -> Array:
    """``[b 1]`` bool: False for rows that only fill up the batch."""
    return batch.get("_mask", jnp.ones(rows))[:, None] > 0


def loss_of(terms: Mapping[str, tuple[Array, Array]], counts: Array, aux: PyTree) -> Loss:
    """The loss of ``terms``, sums and counts for each clip ``[b]`` of which ``loss`` is one;
    ``counts`` ``[k]`` says how often a batch uses each code."""
    metrics: Metrics = {name: (jnp.sum(a), jnp.sum(b)) for name, (a, b) in terms.items()}
    total, count = metrics["loss"]
    metrics["perplexity"] = (codebook.perplexity(counts), jnp.ones(()))
    return Loss(total / jnp.maximum(count, 1.0), metrics, aux)


# ------------------------------------------------------------------ modules


class _Model(nn.Module):
    """An encoder of the visible patches and a predictor of the codes of the masked ones."""

    cfg: BEATs

    def setup(self):
        cfg = self.cfg
        self.trunk = cfg.trunk
        self.predictor = Predictor(cfg.predictor, cfg.tokenizer.codes, cfg.grid)

    def __call__(self, spec: Array, mask: Mask, valid: Array, *, train: bool = False) -> Array:
        """Logits ``[b m k]`` of the codes of the masked patches; ``valid`` ``[b n]``."""
        tokens = visible_tokens(self.trunk.embed_under(spec, mask), mask)
        inside = take_entries(valid, mask.visible)
        _, states, _ = self.trunk.encode(tokens, ids=mask.visible, valid=inside, train=train)
        masked = jnp.zeros((*mask.masked.shape, states.shape[-1]), states.dtype)
        states = restore_tokens(jnp.concatenate([states, masked], axis=1), mask.restore)
        return masked_tokens(self.predictor(states, valid, train=train), mask)


class _Distilled(Quantiser):
    """A tokenizer and the estimator that it is trained with."""

    estimator_cfg: ViT
    out: int

    def setup(self):
        super().setup()
        self.estimator = Predictor(self.estimator_cfg, self.out, self.trunk.grid)

    def estimate(
        self, spec: Array, valid: Array, codes: Array, *, train: bool = False
    ) -> tuple[Array, Array, Array]:
        """Vectors ``[b n d]``, numbers ``[b n]`` of their nearest ``codes`` ``[k d]``, and the
        teacher's states ``[b n out]`` as the estimator reads them off the codes."""
        vectors = self(spec, valid, train=train)
        ids = codebook.nearest(vectors, codes)
        quantised = codebook.straight_through(vectors, jnp.take(codes, ids, axis=0))
        return vectors, ids, self.estimator(quantised, valid, train=train)
