"""A classifier of noisy images as the reference."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Reference

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Classifier(Reference):
    """A classifier, whose push is sigma^2 grad log p(class | x; sigma), at the noisy x; its scale is w - 1.

    With a conditional network it is on top of what the network knows of the class; D of the reference is that of a
    network that knows less of it, by Bayes' rule.

    Rules mix networks, so no rule shapes this push: it is added to what the rule made. So a classifier may stand beside
    networks under any rule; bands, projections and gradients are those of the networks alone.
    """

    kind: ClassVar[str] = "classifier"
    source: ClassVar[str] = "arXiv 2105.05233, Algorithms 1 and 2"
    formula: ClassVar[str] = "push = sigma^2 grad log p(class | x; sigma)"
    of_classifier: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def denoise(self, call: Call) -> "Tensor":
        return call.main() - self.push(call)

    def push(self, call: Call) -> "Tensor":
        import torch

        assert call.labels is not None
        with torch.enable_grad():
            x = call.x.detach().requires_grad_()
            chosen = call.log_probs(x)[range(len(x)), call.labels]
            (gradient,) = torch.autograd.grad(chosen, x, torch.ones_like(chosen))  # of the sum: each image its own
        return call.sigma**2 * gradient
