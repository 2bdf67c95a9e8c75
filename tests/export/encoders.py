"""Small encoders of all methods with random weights, for the tests of export formats."""

import jax
import numpy as np

from jfreq import recipes
from jfreq.config import replace
from jfreq.export.bundle import save_bundle
from jfreq.method import encoder_params
from jfreq.testing import data_of, small

RECIPES = {
    "AST": "ast_nano", "AaSP": "aape_nano", "AudioMAE": "audiomae_nano", "BEATs": "beats_nano",
    "BEATsTokenizer": "beats_tokenizer_nano", "Data2Vec": "data2vec_nano", "EAT": "eat_nano",
    "FOCAL": "focal_hapt", "FOCAL on DeepSense": "focal_sense_hapt", "FreqMAE": "freqmae_nano",
    "FreqMAE released": "freqmae_released_nano", "LTFC": "ltfc_hapt", "MAE": "mae_nano",
    "PhyMask": "phymask_nano", "SSAST": "ssast_nano", "STFCSL": "stf_csl_hapt",
    "STFNet": "stfnet_hapt", "STFNet convolutions": "stfnet_conv_hapt",
}  # fmt: skip
"""A recipe of every method, and of the encoders that differ from it."""


def encoder(recipe, **changes):
    """The experiment of a recipe at test size, bound, and parameters of its encoder."""
    experiment = replace(recipes.load(recipe), **changes)
    method = small(experiment.method).bind(data_of(experiment))
    experiment = replace(experiment, method=method)
    return experiment, encoder_params(method, weights(method))


def weights(method):
    """Parameters of noise."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    return jax.tree.map(lambda s: rng.normal(0.05, 0.1, s.shape).astype(s.dtype), shapes)


def bundle(folder, recipe, **changes):
    """A bundle of such an encoder."""
    experiment, params = encoder(recipe, **changes)
    return save_bundle(folder, experiment=experiment, params=params)
