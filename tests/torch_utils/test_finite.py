import math

import torch

from torch_utils.finite import first_not_finite


def test_where_the_first_value_is_that_is_not_finite():
    state = {"a": [torch.ones(2), {3: torch.tensor([1.0, math.inf])}], "b": torch.tensor(math.nan), "n": 1}
    assert first_not_finite(state) == "a.1.3"
    state["a"][1][3] = torch.tensor([1, 2])
    assert first_not_finite(state) == "b"
    assert first_not_finite({"a": torch.ones(2), "f": "nan"}) is None
