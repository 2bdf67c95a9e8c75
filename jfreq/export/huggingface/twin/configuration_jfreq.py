"""Settings of an encoder that was trained with jfreq."""

# pyright: reportMissingImports=false

from __future__ import annotations

from transformers import PretrainedConfig


class JfreqConfig(PretrainedConfig):
    """A transformer on log-mel spectrograms of waves. Pairs of numbers are (time, frequency).

    Args:
      hidden_size: width of the tokens; ``num_hidden_layers``, ``num_attention_heads``,
        ``intermediate_size``, ``layer_norm_eps``, ``hidden_dropout_prob`` (of tokens and of the
        layers that are added to them), ``attention_probs_dropout_prob`` and ``drop_path_rate`` (of
        the last block, from 0 at the first) are what they are elsewhere in transformers.
      norm: ``pre``: norms before attention and MLP; ``post``: after each sum, and one more before
        the first block.
      final_norm: whether ``pre`` ends with a norm.
      residual_scale: factor of the stream before each sum.
      special_tokens: learned tokens before the patches.
      registers: learned tokens that are attended to and not read.
      positions: ``learned``, or ``sines`` that are never trained.
      token_order: ``freq_major``: the patches of the lowest bins come first; ``time_major``: those
        of the first frames.
      patch: size of a patch in frames and bins.
      stride: frames and bins from patch to patch.
      max_frames: frames of a window; shorter waves are padded.
      padding: ``masked``: patches without a frame of the wave are not attended to, nor part of the
        mean; ``attended``: padding is read like sound.
      pool: the vector of a wave, ``mean`` of the patches or of the ``special`` tokens.
      sampling_rate: in Hz.
      num_mel_bins: bands of the spectrogram; ``win_length`` and ``hop_length`` are the length of a
        frame and the way to the next one in samples, ``window`` its shape, ``low_hz`` the lower
        edge of the lowest band.
      mean: of the spectrogram before it is normalised; ``std`` its standard deviation.
      alias: settings of the branch that measures what patches alias; None: no branch.
      classifier_norm: whether a LayerNorm lies before the classifier.
      classifier_eps: its epsilon.
      jfreq: the experiment that trained the encoder, for ``jfreq import``.
    """

    model_type = "jfreq"

    def __init__(
        self,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        drop_path_rate=0.0,
        norm="pre",
        final_norm=True,
        residual_scale=1.0,
        special_tokens=2,
        registers=0,
        positions="learned",
        token_order="freq_major",
        patch=(16, 16),
        stride=(16, 16),
        max_frames=1024,
        padding="attended",
        pool="mean",
        sampling_rate=16000,
        num_mel_bins=128,
        win_length=400,
        hop_length=160,
        window="hann",
        low_hz=20.0,
        mean=-4.2677393,
        std=4.5689974,
        alias=None,
        classifier_norm=True,
        classifier_eps=1e-5,
        initializer_range=0.02,
        jfreq=None,
        **kwargs,
    ):
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.drop_path_rate = drop_path_rate
        self.norm = norm
        self.final_norm = final_norm
        self.residual_scale = residual_scale
        self.special_tokens = special_tokens
        self.registers = registers
        self.positions = positions
        self.token_order = token_order
        self.patch = list(patch)
        self.stride = list(stride)
        self.max_frames = max_frames
        self.padding = padding
        self.pool = pool
        self.sampling_rate = sampling_rate
        self.num_mel_bins = num_mel_bins
        self.win_length = win_length
        self.hop_length = hop_length
        self.window = window
        self.low_hz = low_hz
        self.mean = mean
        self.std = std
        self.alias = alias
        self.classifier_norm = classifier_norm
        self.classifier_eps = classifier_eps
        self.initializer_range = initializer_range
        self.jfreq = jfreq
        super().__init__(**kwargs)

    @property
    def grid(self):
        """Number of patches along time and along frequency."""
        sizes = (self.max_frames, self.num_mel_bins)
        return tuple((n - p) // s + 1 for n, p, s in zip(sizes, self.patch, self.stride))
