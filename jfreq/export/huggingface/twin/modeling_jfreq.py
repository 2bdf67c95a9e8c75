"""A transformer on log-mel spectrograms, trained with jfreq, in torch.

``b`` batch, ``n`` tokens, ``d`` width; pairs of numbers are (time, frequency).
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from .alias_jfreq import AliasBranch
from .configuration_jfreq import JfreqConfig
from .log_mel_jfreq import log_mel
from .transformer_jfreq import Transformer


class JfreqPreTrainedModel(PreTrainedModel):
    """What both models share."""

    config_class = JfreqConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"


class JfreqModel(JfreqPreTrainedModel):
    """The encoder: waves ``[b samples]`` to tokens and a vector for each wave."""

    def __init__(self, config):
        super().__init__(config)
        width, (time, freq) = config.hidden_size, config.grid
        learned = config.positions == "learned"
        self.patch_embed = nn.Conv2d(1, width, config.patch[::-1], config.stride[::-1])
        if config.special_tokens:
            self.special_tokens = nn.Parameter(torch.zeros(1, config.special_tokens, width))
        if config.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, width))
        table = torch.zeros(1, time * freq + learned * config.special_tokens, width)
        if learned:
            self.position_embeddings = nn.Parameter(table)
        else:
            self.register_buffer("position_embeddings", table)
        self.alias = AliasBranch(config) if config.alias else None
        self.transformer = Transformer(
            width,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            eps=config.layer_norm_eps,
            norm=config.norm,
            final_norm=config.final_norm,
            residual_scale=config.residual_scale,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            drop_path=config.drop_path_rate,
        )
        self.post_init()

    def forward(
        self,
        input_values,
        attention_mask=None,
        length=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        """Encodes waves.

        Args:
          input_values: ``[b samples]`` in [-1, 1] at ``config.sampling_rate``.
          attention_mask: ``[b samples]``, 1 for sound and 0 for the padding after it.
          length: ``[b]``, samples of sound, in place of ``attention_mask``; by default all.
          output_hidden_states: return the tokens before the first block and after each.
          return_dict: off: a tuple.

        Returns:
          ``last_hidden_state`` ``[b s+n d]``, the special tokens first, and ``pooler_output``
          ``[b d]``, the vector of each wave.
        """
        if length is None and attention_mask is not None:
            length = attention_mask.sum(dim=-1)
        if length is None:
            length = torch.full((len(input_values),), input_values.shape[-1])
        spec, valid = log_mel(input_values, length.to(input_values.device), self.config)
        found = self.encode(spec, valid, output_hidden_states)
        return found if _as_dict(self, return_dict) else found.to_tuple()

    def encode(self, spec, valid_frames, output_hidden_states=None):
        """As :meth:`forward`, of spectrograms ``[b frames bins]``, of which ``valid_frames``
        ``[b frames]`` are sound."""
        config, attended = self.config, self.attended(valid_frames)
        tokens = self.patch_embed(spec.transpose(1, 2)[:, None].to(self.patch_embed.weight.dtype))
        if config.token_order == "time_major":
            tokens = tokens.transpose(2, 3)
        tokens = tokens.flatten(2).transpose(1, 2)
        if self.alias is not None:
            tokens = self.alias(spec, tokens, attended)
        s, first = config.special_tokens, config.special_tokens + config.registers
        learned, table = config.positions == "learned", self.position_embeddings
        parts = [tokens + (table[:, s:] if learned else table)]
        if config.registers:
            parts.insert(0, self.register_tokens.expand(len(spec), -1, -1))
        if s:
            special = self.special_tokens + table[:, :s] if learned else self.special_tokens
            parts.insert(0, special.expand(len(spec), -1, -1))
        mask = None if attended is None else functional.pad(attended, (first, 0), value=True)
        tokens, states = self.transformer(torch.cat(parts, dim=1), mask)
        special, patches = tokens[:, :s], tokens[:, first:]
        if config.pool == "special":
            pooled = special.mean(dim=1)
        elif attended is None:
            pooled = patches.mean(dim=1)
        else:
            weight = attended[..., None].to(patches.dtype)
            pooled = (patches * weight).sum(dim=1) / weight.sum(dim=1)
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        return BaseModelOutputWithPooling(
            last_hidden_state=torch.cat([special, patches], dim=1),
            pooler_output=pooled,
            hidden_states=states if output_hidden_states else None,
        )

    def attended(self, valid_frames):
        """``[b n]``: patches that hold a frame of the sound, and the first ones; None: all are
        read."""
        if self.config.padding == "attended":
            return None
        time, freq = self.config.grid
        columns = valid_frames[:, :: self.config.stride[0]][:, :time].clone()
        columns[:, 0] = True
        if self.config.token_order == "freq_major":
            return columns.repeat(1, freq)
        return columns.repeat_interleave(freq, dim=1)


class JfreqForAudioClassification(JfreqPreTrainedModel):
    """The encoder and a linear classifier on its vector of a wave."""

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.encoder = JfreqModel(config)
        self.classifier_norm = nn.Identity()
        if config.classifier_norm:
            self.classifier_norm = nn.LayerNorm(width, eps=config.classifier_eps)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_values,
        attention_mask=None,
        length=None,
        labels=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        """As :meth:`JfreqModel.forward`; ``logits`` ``[b classes]``, and with ``labels`` a
        ``loss``: cross-entropy of classes ``[b]``, or binary cross-entropy of ``[b classes]`` where
        ``config.problem_type`` is ``multi_label_classification``."""
        found = self.encoder(
            input_values, attention_mask, length, output_hidden_states, return_dict=True
        )
        logits = self.classifier(self.classifier_norm(found.pooler_output))
        loss = None
        if labels is not None and self.config.problem_type == "multi_label_classification":
            loss = functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
        elif labels is not None:
            loss = functional.cross_entropy(logits.float(), labels)
        output = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=found.hidden_states
        )
        return output if _as_dict(self, return_dict) else output.to_tuple()


def _as_dict(model, return_dict):
    return model.config.return_dict if return_dict is None else return_dict
