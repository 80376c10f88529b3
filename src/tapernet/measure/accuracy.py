"""Accuracy of a network at each budget."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tapernet.errors import DataError
from tapernet.nn.net import Budget, at


def accuracies(
    net: nn.Module, images: Tensor, labels: Tensor, budgets: Iterable[Budget], batch_size: int = 1000
) -> list[float]:
    """Share of images whose highest score is their label's, in [0, 1], for each budget.

    The network is run in eval mode, and left in the mode it was in.

    Args:
        net: the network, on the device where it should run.
        images: standardised, shape (n, channels, height, width).
        labels: shape (n,).
        budgets: where to measure.
        batch_size: images run at once.

    Raises:
        DataError: a score is not a number (NaN).
    """
    training = net.training
    net.eval()
    try:
        with torch.inference_mode():
            result = []
            for budget in budgets:
                with at(net, budget):
                    result.append(right_answers(net, images, labels, batch_size) / len(labels))
            return result
    finally:
        net.train(training)


def right_answers(net: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> int:
    """How many images the network, as it is, gives their label's score the highest; arguments as in `accuracies`."""
    device = next(net.parameters()).device
    pairs = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    return sum(int((predicted(net(x.to(device))) == y.to(device)).sum()) for x, y in pairs)


def predicted(scores: Tensor) -> Tensor:
    """The class of each image's highest score, shape (n,), from scores of shape (n, classes).

    Raises:
        DataError: a score is not a number (NaN), so that none is the highest; torch's argmax would name a class.
    """
    if scores.isnan().any():
        raise DataError("the network gives scores that are not numbers (NaN): are its weights and the images finite?")
    return scores.argmax(1)
