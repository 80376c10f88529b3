import time

import numpy as np
import pytest
import torch
from torch import nn

from tapernet import taper
from tapernet.measure.latency import Latency, in_turns, spreads, using_threads


def test_quartiles_are_numpys() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    found = Latency.of(values)
    assert (found.low, found.median, found.high) == pytest.approx(tuple(np.percentile(values, [25, 50, 75])))
    assert str(Latency(1, 0.5, 2)) == "1.000 ms (0.500 to 2.000)"


def test_actions_take_turns_after_one_that_warms_up() -> None:
    order: list[str] = []

    def slow() -> None:
        order.append("slow")
        time.sleep(0.01)

    quick, long = in_turns([lambda: order.append("quick"), slow], 3, [1, 2])
    assert order == ["quick", "slow"] * 4
    assert quick.high < 5 <= long.low < 50  # half of 10 ms and more


def test_each_budget_is_timed_in_eval_mode_and_the_network_left_alone(plain: nn.Module) -> None:
    net = taper(plain, torch.zeros(1, 1, 4, 4)).train()
    seen: list[tuple[object, bool]] = []
    net.register_forward_pre_hook(lambda m, x: seen.append((m.budget, m.training)))
    found = spreads(net, torch.zeros(2, 1, 4, 4), [0.5, {"fc1": 0.3}], rounds=2, calls=2)
    assert len(found) == 2
    assert seen == [(b, False) for _ in range(3) for b in (0.5, 0.5, {"fc1": 0.3}, {"fc1": 0.3})]
    assert net.training
    assert net.budget == 1.0


def fail() -> None:
    with using_threads(2):
        raise RuntimeError("on purpose")


def test_threads_are_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with using_threads(2):
        assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert torch.get_num_threads() == before
