import io
import pickle

import pytest
import torch

from torch_utils import pickle_writer


def dumped(content):
    file = io.BytesIO()
    pickle_writer.dump(content, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6, dtype=torch.float16).reshape(2, 3),
        torch.tensor(1.5, dtype=torch.float64),
        torch.arange(12.0).reshape(3, 4).t()[1:],  # strides and an offset
        torch.zeros(0),
        torch.tensor([1, -2]),
        torch.tensor([True, False]),
        torch.tensor([0.1], dtype=torch.bfloat16),
    ],
)
def test_plain_python_reads_it_back(tensor):
    back = pickle.loads(dumped({"x": tensor}))["x"]
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)
    assert back.stride() == tensor.stride()


def test_equal_content_gives_equal_bytes():
    def content():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).half()

    first = content()  # kept alive, so that the second one has other addresses
    assert dumped(first) == dumped(content())
    assert pickle.dumps(first) != pickle.dumps(content())  # the reason for this module


def test_parameters_stay_parameters():
    back = pickle.loads(dumped(torch.nn.Linear(2, 2)))
    assert isinstance(back.weight, torch.nn.Parameter)
    assert back.weight.requires_grad


def test_what_cannot_be_pickled_is_an_error():
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        dumped(lambda: None)
