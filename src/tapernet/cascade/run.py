"""Input-adaptive budgets: a small budget answers the images that it is sure of, and a larger one the others."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from tapernet.cascade.report import CascadeReport, time_cascade
from tapernet.data import ImageData
from tapernet.errors import ConfigError, DataError
from tapernet.measure.accuracy import predicted
from tapernet.measure.macs import total_macs
from tapernet.nn.mode import eval_mode
from tapernet.nn.net import Budget, TaperedNet
from tapernet.registry import Registry
from tapernet.saving import CASCADE

CONFIDENCES: Registry[Callable[[Tensor], Tensor]] = Registry("confidence")
"""From scores, shape (n, classes), to how sure they are, shape (n,), in [0, 1]."""


@CONFIDENCES.register("probability")
def probability(scores: Tensor) -> Tensor:
    """The largest softmax probability."""
    return scores.softmax(1).amax(1)


@CONFIDENCES.register("margin")
def margin(scores: Tensor) -> Tensor:
    """The largest softmax probability less the second largest."""
    top = scores.softmax(1).topk(min(2, scores.shape[1]), dim=1).values
    return top[:, 0] - top[:, 1] if top.shape[1] > 1 else top[:, 0]


class Cascade:
    """A network that runs a small budget first, and a larger one for the images whose confidence is below a threshold.

    Nothing that a smaller budget computed is used by a larger one: an image that climbs costs the sum of all that it
    ran.

    Args:
        net: the network; it is run in eval mode, without gradients.
        budgets: of the stages, each with more MACs than the one before.
        thresholds: of every stage but the last: an image is answered where its confidence is at least this. At 0 all
            are answered, above 1 none.
        confidence: a name in `CONFIDENCES`, "probability" or "margin".

    Raises:
        ConfigError: bad budgets, thresholds that are not one fewer, negative or not finite, an unknown confidence.

    Example:
        >>> import torch, tapernet as tn
        >>> net = tn.taper(tn.zoo.create("mlp"), torch.zeros(1, 1, 28, 28))
        >>> cascade = tn.Cascade(net, (0.2, 1.0), (0.9,))
        >>> cascade(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, net: TaperedNet, budgets: Sequence[Budget], thresholds: Sequence[float], confidence: str = "probability"
    ) -> None:
        self.net, self.budgets, self.confidence = net, tuple(budgets), confidence
        self.thresholds = tuple(float(t) for t in thresholds)
        self._confidence = CONFIDENCES[confidence]
        self.macs = stage_macs(net, self.budgets)
        if len(self.thresholds) != len(self.budgets) - 1:
            raise ConfigError(f"{len(self.budgets)} budgets have {len(self.budgets) - 1} thresholds between them, "
                              f"not {len(self.thresholds)}")  # fmt: skip
        if not all(math.isfinite(t) and t >= 0 for t in self.thresholds):
            raise ConfigError(f"thresholds are finite and not negative, not {self.thresholds}")

    def __call__(self, images: Tensor) -> Tensor:
        """Class scores, shape (n, classes), each image's from the stage that answered it.

        Args:
            images: standardised, shape (n, channels, height, width); each stage runs those alone that reach it.
        """
        return self.run(images)[0]

    def run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The scores, and the number of the stage that answered each image, shape (n,), from 0."""
        if self.net.training:  # walking all modules each time would cost more than a small stage
            with eval_mode(self.net):
                return self.run(images)
        with torch.no_grad():
            left: Tensor | None = None  # None: all of them
            last = len(self.budgets) - 1
            for stage, budget in enumerate(self.budgets):
                with self.net.at(budget):
                    found = self.net(images if left is None else images[left])
                if left is None:
                    scores = found
                    answered = torch.full((len(images),), stage, device=found.device)
                else:
                    scores[left] = found
                    answered[left] = stage
                if stage == last:
                    break
                # In float32 all probabilities near 1 are one. What is no number is unsure of everything.
                unsure = (~(self._confidence(found.double()) >= self.thresholds[stage])).nonzero()[:, 0]
                if len(unsure) == 0:
                    break
                if len(unsure) < len(found):
                    scores = found.clone() if left is None else scores
                    left = unsure if left is None else left[unsure]
        return scores, answered

    def evaluate(self, data: ImageData, *, latency: bool = True, batch_size: int = 1000) -> CascadeReport:
        """Measures the cascade, and its largest budget alone.

        Args:
            data: usually the test set; reading it here chooses nothing.
            latency: also measure times, of images one by one and in batches, on one thread.
            batch_size: images run at once for the accuracy.

        Raises:
            DataError: the images do not have the network's shape.
        """
        if data.shape != self.net.input_shape:
            raise DataError(f"the images have shape {data.shape}, but the network takes {self.net.input_shape}")
        images, full = data.as_float(), Cascade(self.net, self.budgets[-1:], ())
        accuracy, stages = self._answers(data, batch_size)
        counts = stages.bincount(minlength=len(self.budgets)).tolist()
        done = accumulate(self.macs)
        return CascadeReport(
            budgets=self.budgets,
            thresholds=self.thresholds,
            confidence=self.confidence,
            stage_macs=self.macs,
            shares=tuple(count / len(data) for count in counts),
            accuracy=accuracy,
            macs=sum(count * macs for count, macs in zip(counts, done, strict=True)) / len(data),
            full_accuracy=full._answers(data, batch_size)[0],
            latency=time_cascade(self, full, images) if latency else None,
        )

    def _answers(self, data: ImageData, batch_size: int) -> tuple[float, Tensor]:
        """Share of right answers, and the stage that answered each image."""
        runs = [self.run(batch) for batch in torch.split(data.as_float(), batch_size)]
        answers = torch.cat([predicted(scores) for scores, _ in runs])
        right = int((answers == data.labels.to(answers.device)).sum())
        return right / len(data), torch.cat([stages for _, stages in runs])

    def store(self) -> None:
        """Keeps the cascade with its network: `tapernet.save` writes both, and `Cascade.of` finds it again."""
        self.net.options[CASCADE] = {
            "budgets": list(self.budgets), "thresholds": list(self.thresholds), "confidence": self.confidence
        }  # fmt: skip

    @staticmethod
    def of(net: TaperedNet) -> "Cascade":
        """The cascade that is kept with a network; raises ConfigError if there is none."""
        stored: dict[str, Any] | None = net.options.get(CASCADE)
        if stored is None:
            raise ConfigError("the network has no cascade: calibrate_cascade(...).store() gives it one")
        try:
            return Cascade(net, **stored)
        except TypeError as error:
            raise ConfigError(f"what the network keeps is not a cascade: {error}") from error


def stage_macs(net: TaperedNet, budgets: Sequence[Budget]) -> tuple[int, ...]:
    """MACs of one image at each budget; raises ConfigError unless there is one at least, and they grow."""
    if not budgets:
        raise ConfigError("a cascade has at least one budget")
    image = torch.zeros(1, *net.input_shape, device=next(net.parameters()).device)
    macs = []
    for budget in budgets:
        with net.at(budget):
            macs.append(total_macs(net, image).usual)
    if any(b <= a for a, b in pairwise(macs)):
        raise ConfigError(f"the budgets of a cascade grow from stage to stage, but their MACs are {macs}")
    return tuple(macs)
