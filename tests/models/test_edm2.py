"""EDM2's networks as models: predictions, conditions, gradients, decoders."""

from types import SimpleNamespace

import pytest
import torch

from edm2_guidance.models import open_model
from edm2_guidance.models.edm2 import Edm2Model
from training.encoders import StabilityVAEEncoder
from training.network_io import NetworkFile, load_network

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMA = torch.tensor(1.5, dtype=torch.float64)


def test_a_prediction_is_the_networks_own_in_the_precision_of_x(tiny_networks):
    model, net = open_model(tiny_networks["cond"]), load_network(tiny_networks["cond"]).net
    y = model.conditions([3, 0], torch.device("cpu"))
    assert torch.equal(y, torch.eye(10)[[3, 0]])
    made = model.predict(X, SIGMA, y)
    assert torch.equal(made.denoised, net(X, SIGMA, torch.eye(10)[[3, 0]]).double())
    assert made.mix is None
    assert (model.shape, model.num_classes, model.image_size) == ((3, 8, 8), 10, 8)
    with pytest.raises(ValueError, match=r"cond\.pkl: EDM2's networks know no attention"):
        model.predict(X, SIGMA, y, attention="perturbed")


def test_the_precision_is_what_the_network_computes_in(tiny_networks):
    """float16 where the file allows it on a CUDA device, which is only named here."""
    file = load_network(tiny_networks["cond"])
    precisions = {}
    for kind in ("cpu", "cuda"):
        for allowed in (True, False):
            file.net.use_fp16 = allowed
            precisions[kind, allowed] = Edm2Model(file, torch.device(kind)).precision
    assert precisions.pop(("cuda", True)) == "float16"
    assert set(precisions.values()) == {"float32"}


def test_no_labels_are_no_conditions(tiny_networks):
    assert open_model(tiny_networks["cond"]).conditions(None, torch.device("cpu")) is None
    assert open_model(tiny_networks["uncond"]).conditions([3], torch.device("cpu")) is None


def test_gradients_reach_x(tiny_networks):
    """Against a difference quotient, in one direction."""
    model = open_model(tiny_networks["cond"])
    assert "gradients" in model.supports

    def total(x):
        return model.predict(x, SIGMA, None).denoised.square().sum()

    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(total(x), x)
    step = 1e-2 * X
    quotient = (total(X + step) - total(X - step)) / 2
    assert float((slope * step).sum()) == pytest.approx(float(quotient), rel=1e-2)


def test_pixels_there_and_back(tiny_networks):
    model = open_model(tiny_networks["cond"])
    pixels = torch.arange(192, dtype=torch.uint8).reshape(1, 3, 8, 8)
    assert torch.equal(model.decode(model.encode(pixels)), pixels)
    assert model.decoder_batch is None
    assert "encoder" not in model.identity, "a guide's decoder is nobody's business"
    model.load_decoder()
    assert model.identity["encoder"] == {"class": "StandardRGBEncoder"}


def latent(encoder):
    net = SimpleNamespace(img_channels=4, img_resolution=8, label_dim=0, parameters=list)
    return Edm2Model(NetworkFile(net, encoder, "net.pkl", "a" * 64), torch.device("cpu"))


def test_latents_are_decoded_all_at_once(monkeypatch):
    """How many at a time is the caller's business, by `decoder_batch`; an encoder's own limit is no further one."""
    sizes = []
    monkeypatch.setattr(StabilityVAEEncoder, "init", lambda self, device: None)
    model = latent(StabilityVAEEncoder(batch_size=2))
    model.encoder._vae = SimpleNamespace(
        decode=lambda x: sizes.append(len(x)) or SimpleNamespace(sample=x[:, :3].repeat_interleave(8, 2))
    )
    assert model.decoder_batch == 2
    assert len(model.decode(torch.zeros(5, 4, 8, 8))) == 5
    assert sizes == [5]


def test_an_encoder_of_the_files_own_class_knows_the_formats_arguments_only():
    calls = []
    theirs = SimpleNamespace(
        init=calls.append, _vae=SimpleNamespace(config=SimpleNamespace(block_out_channels=[8] * 4))
    )
    model = latent(theirs)
    model.load_decoder(offline=True)
    assert calls == [torch.device("cpu")]
    assert model.identity == {"sha256": "a" * 64, "encoder": {"class": "SimpleNamespace"}}
    assert model.image_size == 64


def test_encoders_of_a_files_own_only_decode(tiny_networks):
    model = open_model(str(tiny_networks["cond"]))
    model.encoder = object()
    with pytest.raises(ValueError, match="has an encoder of its own, object: it only decodes"):
        model.encode(torch.zeros([1, 3, 8, 8], dtype=torch.uint8))
