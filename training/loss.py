"""The training loss of EDM2.

The text of this module is embedded in every network file, so it imports torch and `torch_utils.persistence` only.
"""

from __future__ import annotations  # readers of the embedded text may run Python 3.9

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from torch_utils import persistence


@persistence.persistent_class
class EDM2Loss:
    """Denoising loss weighted by learned uncertainty: arXiv 2312.02696, Eqs. 14, 15 and 21.

    Per image, ln sigma ~ N(P_mean, P_std^2) and

        loss = lambda(sigma) / exp(u(sigma)) * (D(y + n; sigma) - y)^2 + u(sigma),
        lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma * sigma_data)^2,  n ~ N(0, sigma^2 I),

    with u the `logvar` that the network gives beside its output. Class and argument names are those in network files.
    """

    def __init__(self, P_mean: float = -0.4, P_std: float = 1.0, sigma_data: float = 0.5) -> None:
        self.P_mean = P_mean
        self.P_std = P_std
        self.sigma_data = sigma_data

    def __call__(
        self,
        net: nn.Module,
        images: Tensor,
        labels: Tensor | None = None,
        randn: Callable[[Sequence[int]], Tensor] | None = None,
    ) -> Tensor:
        """Loss of every pixel.

        Args:
            net: Denoiser called as net(x, sigma, labels, return_logvar=True) -> (denoised, logvar).
            images: Clean images or latents, float32 [N,C,H,W], in the network's scale.
            labels: One-hot rows float32 [N, label_dim]; None for an unconditional network.
            randn: Gives standard normal float32 numbers of the shape asked for: [N,1,1,1] for ln sigma, then
                [N,C,H,W] for the noise. None: torch's global generator.

        Returns:
            float32 [N,C,H,W].
        """
        if randn is None:
            randn = self._global_randn(images.device)
        sigma = (randn([images.shape[0], 1, 1, 1]) * self.P_std + self.P_mean).exp()
        weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        noise = randn(images.shape) * sigma
        denoised, logvar = net(images + noise, sigma, labels, return_logvar=True)
        return (weight / logvar.exp()) * (denoised - images) ** 2 + logvar

    @staticmethod
    def _global_randn(device: torch.device) -> Callable[[Sequence[int]], Tensor]:
        return lambda shape: torch.randn(list(shape), device=device)
