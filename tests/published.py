"""Tables of settings, a column for each experiment, on pages that tests hold to the code."""

import re
from collections.abc import Mapping
from fractions import Fraction

from jfreq.config import Experiment
from jfreq.config_json import flat, to_dict

ONLY_WITH = {
    "optim.step_": ("optim.schedule", "step"),
    "optim.plateau_": ("optim.schedule", "plateau"),
    "optim.final_lr": ("optim.schedule", "cosine"),
    "method.encoder.final_norm": ("method.encoder.norm", "pre"),
    "method.cluster": ("method.mask_kind", "cluster"),
    "method.head.mixup_": ("method.head.mixup", True),
    "method.head.spec_augment_at": ("method.head.spec_augment", True),
    "average.start": ("average.every", True),
    "validation.": ("validation.every", True),
}
"""Fields that mean nothing unless another one has this value, or is not 0."""


def table(columns: Mapping[str, Experiment], rows: Mapping[str, str], *, empty: bool = True) -> str:
    """Lines ``rows`` (label: the fields that it shows) of a table; without ``empty`` only those in
    which a column has a value."""
    values = {name: flat(to_dict(experiment)) for name, experiment in columns.items()}
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for label, fields in rows.items():
        cells = [cell(fields, column) for column in values.values()]
        if empty or any(re.sub(r"[– ]", "", text) for text in cells):
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(fields: str, values: Mapping) -> str:
    """The fields' values as a page writes them."""
    words = []
    for field in fields.split():
        other = next((o for start, o in ONLY_WITH.items() if field.startswith(start)), None)
        if other is None or values[other[0]] == other[1] or (other[1] is True and values[other[0]]):
            words.append(written(values[field]))
    return " ".join(words) or "–"


def written(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(written, value)) or "–"
    if isinstance(value, float):
        short = Fraction(value).limit_denominator(100)
        third = short.denominator % 3 == 0 and abs(float(short) - value) < 1e-9
        return str(short) if third else f"{value:.9g}"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return "–" if value is None else f"`{value}`" if re.search(r"\W", value) else value


def page(text: str, tables: Mapping[str, str]) -> str:
    """The page with each table in place of the first one under its heading."""
    for heading, lines in tables.items():
        found = re.compile(rf"({re.escape(f'## {heading}')}\n(?:.*\n)*?\n)\| \|.*\n(?:\|.*\n)+")
        assert found.search(text), f"no table under {heading}"
        text = found.sub(lambda m, lines=lines: f"{m[1]}{lines}\n", text)
    return text
