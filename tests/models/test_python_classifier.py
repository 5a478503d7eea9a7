"""Classifiers of the user's own: both forms, what a recipe knows them by, and what fails."""

import pytest
import torch

from edm2_guidance.models import open_classifier

SOURCE = """
import torch
from torch import nn

MEANS = torch.linspace(-0.5, 0.5, 4)

class Net(nn.Module):
    '''Called as (x, sigma): logits.'''
    img_channels, img_resolution, label_dim = 3, 8, 4

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(MEANS)

    def forward(self, x, sigma):
        return -(x.mean((1, 2, 3))[:, None] - self.means.to(x)) ** 2 / (1 + sigma ** 2)

class Duck:
    shape, num_classes, class_names, identity = (3, 8, 8), 4, list("abcd"), {"v": 1}

    def log_probs(self, x, sigma):
        return Net()(x, sigma).log_softmax(1)

net = lambda device: Net()
duck = lambda device: Duck()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "classes.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("function", ["net", "duck"])
def test_log_probabilities_with_gradients_to_x_alone(file, function):
    found = open_classifier(f"{file}:{function}")
    assert (found.shape, found.num_classes) == ((3, 8, 8), 4)
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64).requires_grad_()
    made = found.log_probs(x, x.new_tensor(2.0))
    torch.testing.assert_close(made.exp().sum(1), torch.ones(5, dtype=torch.float64))
    (slope,) = torch.autograd.grad(made[:, 1], x, torch.ones(5, dtype=torch.float64))
    means = torch.linspace(-0.5, 0.5, 4).double()
    expected = 2 * (means[1] - made.detach().exp() @ means) / 5 / (3 * 8 * 8)
    torch.testing.assert_close(slope, expected[:, None, None, None].expand_as(slope))


def test_its_text_and_function_are_its_identity(file):
    hashes = {open_classifier(f"{file}:{name}").identity["sha256"] for name in ("net", "duck", "net")}
    assert len(hashes) == 2
    file.write_text(SOURCE.replace('"v": 1', '"v": 2'))
    assert open_classifier(f"{file}:duck").identity["sha256"] not in hashes


OBJECT = (
    "class Object:\n    shape, num_classes = (3, 8, 8), {}\n    def log_probs(self, x, sigma): {}\n"
    "make = lambda device: Object()"
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("make = lambda device: None", "returned a NoneType: return an object with shape, num_classes and log_probs"),
        ("from torch import nn\nmake = lambda device: nn.Identity()", "Identity without img_channels, img_"),
        (OBJECT.format(1, "return x"), "tells apart 2 classes at least"),
        (OBJECT.format(4, "return x"), r"made \[2, 3, 8, 8\] in place of log-probabilities \[2, 4\]"),
        (OBJECT.format(4, "return None"), "made NoneType in place of"),
        (OBJECT.format(4, "return x @ None"), r"classifying failed: TypeError.*\(classes\.py, line 3\)"),
        (OBJECT.format(4, "return x.detach()[:, 0, 0, :4]"), "no gradient: leave out no_grad and detach"),
    ],
)
def test_what_is_wrong_is_said(file, text, says):
    file.write_text(text)
    x = torch.zeros(2, 3, 8, 8, requires_grad=True)
    with pytest.raises(ValueError, match=says):
        open_classifier(f"{file}:make").log_probs(x, torch.tensor(1.0))


def test_other_files_are_no_classifiers():
    with pytest.raises(ValueError, match=r"mnist16-cond is no .*classifier.*: a plain pickle, not"):
        open_classifier("mnist16-cond")
