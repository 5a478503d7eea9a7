"""Conditions that are no classes: texts say where a blob of light is, "x=0.3 y=-0.2", or half of that, or nothing."""

import re

import torch

import edm2_guidance as eg

STD, SPOTS = 0.1, torch.linspace(-0.6, 0.6, 7)  # of the noise in pictures; where a blob may be if nothing says where


class Blobs:
    shape, takes_prompts, supports = (3, 32, 32), True, frozenset({"gradients", "unconditional"})

    def conditions(self, texts, device):
        """The pictures without noise that each of N texts means, [N, 49, 1, 32, 32], as likely; None: any, N = 1."""
        at, means = torch.linspace(-1, 1, 32), []
        for text in texts or [""]:
            said = {axis: torch.full([7], float(number)) for axis, number in re.findall(r"([xy])=(-?[.\d]+)", text)}
            x, y = (torch.exp(-((at - said.get(axis, SPOTS)[:, None]) ** 2) / 0.05) for axis in "xy")
            means.append(2 * torch.einsum("ir,jc->ijrc", y, x).reshape(49, 1, 32, 32) - 1)
        return torch.stack(means).to(device)

    def predict(self, x, sigma, y):
        """E[picture | x [N, 3, 32, 32]] of a mixture of Gaussians: means by how near x is, and a share of x itself."""
        variance, y = STD**2 + sigma**2, y.to(x.dtype)
        likely = (-((x[:, None] - y) ** 2).sum((2, 3, 4)) / (2 * variance)).softmax(1)
        return (STD**2 * x + sigma**2 * (likely[:, :, None, None, None] * y).sum(1)) / variance


def make(device):  # for --net=examples/own_conditions.py:make
    return Blobs()


if __name__ == "__main__":
    texts, guide = ["x=0.3 y=-0.2", "y=0.5"], eg.Guide(None, 2, reference="unconditional")
    (images := eg.generate(eg.Recipe(Blobs(), guide, 16, prompts=texts), 8)).grid(columns=4).save("blobs.png")
    for text, image in zip(texts * 4, images.images.float(), strict=True):
        print(f"{text}: row and column {divmod(int(image.mean(0).argmax()), 32)}")
