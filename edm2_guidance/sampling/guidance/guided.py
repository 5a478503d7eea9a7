"""The guided denoiser of a batch: main network, guides and rule put together.

Convention, as in the papers: D = D_guide + w * (D_main - D_guide), so w = 1 is off and w > 1 extrapolates. A limited
interval (arXiv 2404.07724) is a guide that is on at some steps only. A guide that is off is not evaluated; what several
ask the same network in the same way is evaluated once. With classifiers, D = clip(rule(D_main, networks)) +
sum (w - 1) sigma^2 grad log p, where clip is of some samplers only. What is around guidance finishes that D, tells all
networks other labels, or moves the end of a step.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from edm2_guidance.recipe.around import Around
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Denoise, Prediction, Rule, Seen, Step, StepInfo, moved
from edm2_guidance.recipe.perturbation import Perturbation
from edm2_guidance.sampling.guidance.recorder import Recorder
from edm2_guidance.sampling.seeds import Draws
from torch_utils.transfer import to_device

#: By device, up to how many images the main network, asked twice, is asked for both in one batch: where that is faster.
TOGETHER = {"cuda": 16}
# x [N,C,H,W], sigma [] in the precision of x, and the class of each image or None -> D [N,C,H,W], in that precision. By
# name what of `Model.supports` is asked for, such as a `perturbation` (`recipe.perturbation.Perturbation`).
Network = Callable[..., Prediction]
# x [N,C,H,W], sigma [] in the precision of x -> log p(class | x) [N, num_classes], differentiable in x.
LogProbs = Callable[[Tensor, Tensor], Tensor]
# A planned step -> the denoiser for the whole of it, predictor and corrector alike.
DenoiseAt = Callable[[StepInfo], Denoise]


@dataclass(frozen=True)
class Batch:
    """What is known of the images of a batch: their classes (None without), of how many; and their random numbers."""

    labels: list[int] | None = None
    num_classes: int = 0
    draws: Draws = field(default_factory=lambda: Draws(()))


def guided(
    main: Network,
    guides: Sequence[tuple[Guide, Network | LogProbs | None]] = (),
    rule: Rule | None = None,
    batch: Batch | None = None,
    *,
    clip: bool = False,
    recorder: Recorder | None = None,
    gradient: "Differentiated | None" = None,
    around: Sequence[Around] = (),
) -> DenoiseAt:
    """The denoiser of every step.

    guides: of a resolved recipe, each with its network or classifier (None = the main network). clip: D of the networks
    is held within [-1, 1], before classifiers move it (arXiv 2105.05233). recorder: takes down what guides do.
    gradient: of the main network, made here unless it is given to count. around: of a recipe, in its order.
    """
    rule = Rule.parse("linear") if rule is None else rule
    differentiated = (gradient or Differentiated(main)) if rule.takes_gradient else None
    batch = Batch() if batch is None else batch
    known = [
        _Known(number, guide, main if network is None else network) for number, (guide, network) in enumerate(guides)
    ]

    outside = [_Outside(each) for each in around]

    def at(step: StepInfo) -> Denoise:
        if step.renoise > 0:
            for guide in known:
                guide.forget()
            for each in outside:
                each.forget()
        active = [each for each in known if each.guide.on(step)]
        how = _told(around, step, batch)
        return _Guided(step, main, known, active, rule, batch, clip, recorder, differentiated, outside, how)

    return at


@dataclass(frozen=True)
class _Known:
    """A guide, what its reference asks, and what rule, weight and reference have kept of the images of the batch."""

    number: int
    guide: Guide
    network: Network | LogProbs
    of_rule: dict[str, Tensor] = field(default_factory=dict)
    of_weight: dict[str, Tensor] = field(default_factory=dict)
    of_reference: dict[str, Tensor] = field(default_factory=dict)

    @property
    def asks(self) -> object:
        """What it evaluates. Networks are the same by content, if that is known: each guide's counts for itself."""
        net, reference = self.guide.asks
        return (self.network if net is None or net.sha256 is None else net, reference)

    def forget(self) -> None:
        self.of_rule.clear()
        self.of_weight.clear()
        self.of_reference.clear()


@dataclass(frozen=True)
class _Outside:
    """What is around guidance, and what it has kept of the images of the batch."""

    spec: Around
    memory: dict[str, Tensor] = field(default_factory=dict)

    def forget(self) -> None:
        self.memory.clear()


def _told(around: Sequence[Around], step: StepInfo, batch: Batch) -> Mapping[str, Any]:
    """How all networks are asked in this step."""
    changes = [each.told(step, batch.draws.normal) for each in around]
    known = [change for change in changes if change is not None]
    if not known:
        return {}

    def label_embedding(embedded: Tensor) -> Tensor:
        for change in known:
            embedded = change(embedded)
        return embedded

    return {"label_embedding": label_embedding}


@dataclass(frozen=True)
class _Guided:
    """The denoiser of one step, as `recipe.parts.Denoise` promises it. known: all guides; guides: those that are on.

    calls: the evaluations so far, which ask the main network once something looks at its D. seen: of each guide, by
    number, what its weight saw at the first evaluation, if it remembers.
    """

    step: StepInfo
    main: Network
    known: list[_Known]
    guides: list[_Known]
    rule: Rule
    batch: Batch
    clip: bool
    recorder: Recorder | None
    differentiated: "Differentiated | None"  # for a rule that takes the gradient
    around: Sequence[_Outside]
    how: Mapping[str, Any]  # networks are asked
    calls: "list[_Call]" = field(default_factory=list)
    seen: dict[int, Seen] = field(default_factory=dict)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self._denoised(self._call(x, sigma))

    def predict(self, x: Tensor, sigma: float) -> Prediction:
        call = self._call(x, sigma)
        return Prediction(self._denoised(call), call.mix)

    @property
    def networks(self) -> list[_Known]:
        """The guides that are on, without classifiers."""
        return [each for each in self.guides if not each.guide.of_classifier]

    def _call(self, x: Tensor, sigma: float) -> "_Call":
        differentiated = self.differentiated if self.networks else None
        call = _Call(x, sigma, self.step, self.batch, self.main, not self.calls, differentiated, self.how)
        self.calls.append(call)
        return call

    def _denoised(self, call: "_Call") -> Tensor:
        networks, untouched = self.networks, _changes(call.x)
        asked = [] if self.rule.still(self.step) else [self._acting(call, each) for each in networks]
        denoised = self.rule.denoise(call, asked) if networks else call.main()
        if self.clip:
            denoised = denoised.clamp(-1, 1)
        classifiers = [self._acting(call, each) for each in self.guides if each.guide.of_classifier]
        denoised = moved(denoised, call, classifiers)
        for each in self.around:
            denoised = each.spec.finish(denoised, call, each.memory)
        if _changes(call.x) != untouched:
            raise ValueError("code of your own changes x in place, the sampler's state: compute on x.clone()")
        return denoised

    def end(self, step: Step) -> Step:
        for outside in self.around:
            step = replace(step, x=outside.spec.correct(step, outside.memory))
        for each in self.guides:
            if each.number in self.seen:
                each.guide.weight.observe(step, self.seen[each.number])
        for each in self.known if self.calls else ():
            if each.guide.reference.remembers:
                each.guide.reference.observe(self.calls[0].main(), each.of_reference)
        return step

    def _acting(self, call: "_Call", known: _Known) -> "_Acting":
        return _Acting(call, known, self.recorder, self.seen, self._at_once(call, known))

    def _at_once(self, call: "_Call", known: _Known) -> Tensor | None:
        """D of a reference that is the main network under other classes, out of one batch with D of the main network.

        None where it is evaluated by itself.
        """
        few = len(call.x) <= TOGETHER.get(call.x.device.type, 0)
        if known.network is not self.main or call.evaluated or not few or self.differentiated is not None:
            return None
        labels = known.guide.reference.other_labels(call.of(known))
        return None if labels is None else call.together(labels)


def _changes(x: Tensor) -> int:
    """How often x was changed in place; 0 where torch does not count, in inference mode."""
    return 0 if x.is_inference() else x._version


class _Call:
    """One evaluation, as `recipe.parts.Call` promises it."""

    def __init__(
        self,
        x: Tensor,
        sigma: float,
        step: StepInfo,
        batch: Batch,
        main: Network,
        first: bool,
        differentiated: "Differentiated | None",
        how: Mapping[str, Any],
    ) -> None:
        self.x, self.sigma, self.step, self.batch, self.first = x, sigma, step, batch, first
        self.labels, self.num_classes = batch.labels, batch.num_classes
        self._network = main
        self._asked: Callable[..., Any] = main  # the network or classifier of the guide at work
        self.memory: dict[str, Tensor] = {}  # and what its reference has kept
        self._prediction: Prediction | None = None
        self._differentiated = differentiated
        self._how = how
        self._gradient: Tensor | None = None
        self.pushes: dict[Any, Tensor] = {}  # known so far, by network and reference, for this call and all its copies

    def _predicted(self) -> Prediction:
        if self._prediction is None:
            asked = self.x, self._level(self.x), self.labels
            if self._differentiated is None:
                self._prediction = self._network(*asked, **self._how)
            else:
                self._prediction, self._gradient = self._differentiated(*asked, **self._how)
        return self._prediction

    @property
    def gradient(self) -> Tensor:
        self._predicted()
        assert self._gradient is not None, "the rule says that it takes none"
        return self._gradient

    def _level(self, x: Tensor) -> Tensor:
        """The noise level, made on the device: a copy from here would wait for all that it has to do."""
        return x.new_full((), self.sigma)

    def main(self) -> Tensor:
        return self._predicted().denoised

    @property
    def mix(self) -> Tensor | None:
        return self._predicted().mix

    def guide(self, labels: list[int] | None, x: Tensor | None = None, perturbed: Perturbation | None = None) -> Tensor:
        x = self.x if x is None else x
        how = {} if perturbed is None else {"perturbation": perturbed}
        denoised: Tensor = self._asked(x, self._level(x), labels, **self._how, **how).denoised
        return denoised

    @property
    def evaluated(self) -> bool:
        """Whether D of the main network is there."""
        return self._prediction is not None

    def together(self, labels: list[int]) -> Tensor:
        """D of the main network for these classes, [N,C,H,W], evaluated in one batch with that for the images' own."""
        assert self.labels is not None
        x = torch.cat([self.x, self.x])
        made = self._network(x, self._level(x), [*self.labels, *labels], **self._how)
        mix = None if made.mix is None else made.mix.chunk(2)[0]
        denoised, other = made.denoised.chunk(2)
        self._prediction = Prediction(denoised, mix)
        return other

    def log_probs(self, x: Tensor) -> Tensor:
        made: Tensor = self._asked(x, self._level(x))
        return made

    def asking(self, known: _Known) -> "_Call":
        """The same call, of this guide, once D of the main network is there for it and all its copies."""
        self._predicted()
        return self.of(known)

    def of(self, known: _Known) -> "_Call":
        """The same call, of this guide."""
        other = copy.copy(self)
        other._asked, other.memory = known.network, known.of_reference
        return other

    def draw(self, purpose: str, high: int) -> list[int]:
        return self.batch.draws.integers(purpose, high)

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        return to_device(self.batch.draws.normal(purpose, shape, self.x.dtype), self.x.device)


@dataclass(frozen=True)
class _Acting:
    """A guide that is on in a call, with the network or classifier that its reference asks.

    seen: where what a weight that remembers saw is left for the end of the step. denoised: D of the reference, if it
    came out of one batch with that of the main network.
    """

    call: _Call
    known: _Known
    recorder: Recorder | None
    seen: dict[int, Seen]
    denoised: Tensor | None = None

    @property
    def memory(self) -> dict[str, Tensor]:
        return self.known.of_rule

    def push(self) -> Tensor:
        known, asked = self.call.pushes, self.known.asks
        if asked not in known:
            known[asked] = self._push()
        return known[asked]

    def _push(self) -> Tensor:
        if self.denoised is not None:
            return self.call.main() - self.denoised
        return self.known.guide.reference.push(self.call.asking(self.known))

    def weight(self, push: Tensor) -> float | Tensor:
        call, own = self.call, self.known.guide.weight
        seen = Seen(call.x, call.main(), push, call.sigma, call.mix, call.labels, self.known.of_weight)
        if own.remembers and call.first:
            self.seen[self.known.number] = seen
        weight = own.at(call.step, seen)
        if self.recorder is not None:
            self.recorder.see(call.step, self.known.number, push, weight)
        return weight


class Differentiated:
    """A network with the gradient of its D; counts the gradients, in images."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.evaluations = 0

    def __call__(self, x: Tensor, sigma: Tensor, labels: list[int] | None, **how: Any) -> tuple[Prediction, Tensor]:
        """What it predicts, and d(sum of D) / dx [N,C,H,W]: images do not mix, so of each its own."""
        self.evaluations += len(x)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            made = self.network(leaf, sigma, labels, **how)
            (gradient,) = torch.autograd.grad(made.denoised, leaf, torch.ones_like(made.denoised))
        mix = None if made.mix is None else made.mix.detach()
        return Prediction(made.denoised.detach(), mix), gradient


class Counted:
    """A network or classifier that counts its evaluations, in images (a batch of N counts N)."""

    def __init__(self, network: Callable[..., Any]) -> None:
        self.network = network
        self.evaluations = 0

    def __call__(self, x: Tensor, *rest: Any, **how: Any) -> Any:
        self.evaluations += x.shape[0]
        return self.network(x, *rest, **how)
