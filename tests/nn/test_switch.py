"""One version for each range of budgets."""

import torch
from torch import nn

from tapernet.nn.switch import Switch


def test_the_version_whose_range_holds_the_budget_runs() -> None:
    versions = [nn.Linear(2, 1) for _ in range(3)]
    switch, x = Switch(versions, [30, 60, 100]), torch.ones(1, 2)
    for percent, index in ((1, 0), (30, 0), (31, 1), (60, 1), (61, 2), (100, 2)):
        switch.set_percent(percent)
        assert torch.equal(switch(x), versions[index](x))
        assert switch.idle() == [v for i, v in enumerate(versions) if i != index]
