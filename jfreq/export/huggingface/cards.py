"""Sections of the model card on the folder of Hugging Face."""

from __future__ import annotations

from jfreq.export.cards import AGREED
from jfreq.export.huggingface.check import Checked
from jfreq.export.huggingface.parts import FOLDER, Parts

VECTORS = """outputs = model(**inputs)
outputs.last_hidden_state  # [b 2+n d], the two special tokens first
outputs.pooler_output  # [b d], the clip vector"""
LOGITS = "logits = model(**inputs).logits  # [b classes], named by model.config.id2label"


def ast_card(parts: Parts, checked: Checked, padding: str) -> str:
    """The section on the folder of transformers' AST."""
    kind = "ASTModel" if parts.head is None else "ASTForAudioClassification"
    rate = parts.frontend.rate
    return f"""## Hugging Face

The folder `{FOLDER}` is the same encoder as the `{kind}` of transformers. The names of its tensors
are those of transformers 4, which 5 reads too.

```python
import numpy as np
from transformers import ASTFeatureExtractor, {kind}

folder = "path/to/{FOLDER}"
features = ASTFeatureExtractor.from_pretrained(folder)
model = {kind}.from_pretrained(folder)

wave = np.random.default_rng(0).normal(0, 0.1, {rate})  # a second at {rate} Hz, in [-1, 1]
inputs = features(wave, sampling_rate={rate}, return_tensors="pt")
{VECTORS if parts.head is None else LOGITS}
```

{padding and _sentence(padding)}{how(checked)}
"""


def twin_card(parts: Parts, checked: Checked) -> str:
    """The section on the folder of the twin."""
    kind = "AutoModel" if parts.head is None else "AutoModelForAudioClassification"
    rate, special = parts.frontend.rate, parts.backbone.special_tokens
    vectors = VECTORS.replace("2+n", f"{special}+n").replace("two special", "special")
    return f"""## Hugging Face

The folder `{FOLDER}` is the same encoder in torch, from waves to vectors. Its code, a few hundred
lines that lie in the folder, needs torch and transformers; `trust_remote_code` lets them run.

```python
import numpy as np
from transformers import AutoFeatureExtractor, {kind}

folder = "path/to/{FOLDER}"
features = AutoFeatureExtractor.from_pretrained(folder)
model = {kind}.from_pretrained(folder, trust_remote_code=True).eval()

wave = np.random.default_rng(0).normal(0, 0.1, {rate})  # a second at {rate} Hz, in [-1, 1]
inputs = features([wave], sampling_rate={rate}, padding=True, return_tensors="pt")
{vectors if parts.head is None else LOGITS}
```

{how(checked)}
"""


def padding_note(cosine: float) -> str:
    """What is said of padding where transformers' AST reads it and the encoder does not."""
    return (
        "transformers' AST attends to padding, which this encoder keeps out: on a full window "
        f"their clip vectors have a cosine of {cosine:.4f}, less on shorter ones; --format "
        "huggingface_twin keeps padding out"
    )


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:]}.\n\n"


def how(checked: Checked) -> str:
    """How the folder was checked."""
    spectra = ""
    if checked.log_mel is not None:
        spectra = f" Log-mel spectrograms differ by {checked.log_mel:.1e}."
    return (
        f"{AGREED}, in tokens, clip vectors and logits of "
        f"the same spectrograms ({checked.by}): {checked.error:.1e}.{spectra}"
    )
