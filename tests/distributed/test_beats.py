"""BEATs trains on eight devices as on one."""

import numpy as np
import pytest

from jfreq import param_paths
from jfreq.config import replace

from ..methods.test_beats import METHODS, trained


@pytest.mark.parametrize("name", METHODS)
def test_eight_devices_train_as_one(name):
    """The codebook, too, follows the vectors of all devices: a code moves halfway to their mean."""
    method = METHODS[name]
    if name == "tokenizer":
        method = replace(method, decay=0.5)
    (one, said), (eight, other) = (trained(method, devices) for devices in (1, 8))
    assert eight.step == 2
    for part in ("params", "target"):
        found, expected = (param_paths.flatten(getattr(state, part)) for state in (eight, one))
        for path, leaf in expected.items():
            np.testing.assert_allclose(found[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)
    for what, value in said.items():
        np.testing.assert_allclose(other[what], value, rtol=1e-3, err_msg=what)
