import pytest
import torch
from small_nets import NETS

from tapernet import taper, zoo
from tapernet.nn.prefix import PrefixLayer
from tapernet.nn.widths import layer_sides


@pytest.mark.parametrize("name", NETS)
def test_sides_are_what_the_layouts_say_at_any_widths(name: str) -> None:
    small = NETS[name]
    net = taper(small.make(8, 6), torch.zeros(1, *small.shape))
    sides = layer_sides(net)
    for percents in ([100, 100], [25, 75], [60, 10]):
        budget = net.budget_of([percents[i % 2] for i in range(len(net.channel_groups))])
        with net.at(budget):
            kept = net.kept_channels()
            for path, layer in net.model.named_modules():
                if isinstance(layer, PrefixLayer):
                    assert sides[path].inputs.features(kept) == layer.inputs.kept
                    assert sides[path].outputs.features(kept) == layer.outputs.kept
    assert sides


def test_a_budget_of_percents_is_the_one_that_is_kept() -> None:
    net = taper(zoo.create("mlp", hidden=[20, 10]), torch.zeros(1, 1, 28, 28))
    assert net.budget_of([50, 30]) == {"fc1": 0.5, "fc2": 0.3}
    with net.at(net.budget_of([50, 30])):
        assert net.kept_channels() == (10, 3)
