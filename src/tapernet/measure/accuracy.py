"""Accuracy of a network at each budget."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

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
    """
    device = next(net.parameters()).device
    pairs = list(zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True))
    training = net.training
    net.eval()
    try:
        with torch.inference_mode():
            result = []
            for budget in budgets:
                with at(net, budget):
                    right = sum(int((net(x.to(device)).argmax(1) == y.to(device)).sum()) for x, y in pairs)
                result.append(right / len(labels))
            return result
    finally:
        net.train(training)
