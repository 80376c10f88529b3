import pytest
import torch
from torch import nn

from tapernet.errors import ConfigError
from tapernet.train.settings import OPTIMIZERS, Settings


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_on_a_prefix_in_memory_is_the_step_on_a_copy(name: str) -> None:
    # The prefix's rows lie apart; torch's fused kernels would write between them.
    whole = torch.randn(6, 8)
    copy, untouched = nn.Parameter(whole[:3, :4].clone()), whole.clone()
    prefix = nn.Parameter(whole[:3, :4])
    for parameter in (prefix, copy):
        optimizer = Settings(optimizer=name, lr=0.1, weight_decay=0.01).make_optimizer([parameter])
        for step in range(3):
            parameter.grad = torch.full((3, 4), float(step + 1))
            optimizer.step()
    torch.testing.assert_close(prefix.detach(), copy.detach())
    untouched[:3, :4] = whole[:3, :4]
    assert torch.equal(untouched, whole)


def test_the_learning_rate_rises_and_falls() -> None:
    settings = Settings(lr=2.0, schedule="cosine", warmup=1.0)
    assert settings.lr_at(0.0, 10) == 0
    assert settings.lr_at(5.0, 10) == pytest.approx(1.0)
    assert settings.lr_at(10.0, 10) == pytest.approx(0.0)
    assert Settings(lr=2.0).lr_at(7.3, 10) == 2.0


def test_images_grow_from_pair_to_pair() -> None:
    settings = Settings(sides=((2, 8), (1, 12)))
    assert [settings.side_at(epoch) for epoch in range(5)] == [8, 8, 12, None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "views is a whole number from 1, not 0"),
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"profile_order": "isotnic"}, "did you mean 'isotonic'"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size is a whole number"),
        ({"lr": 0.0}, "lr is a finite number above 0"),
        ({"lr": float("nan")}, "lr is a finite number above 0"),
        ({"profile_lr": -1.0}, "profile_lr"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"warmup": float("nan")}, "warmup"),
        ({"sides": ((1, 0),)}, "sides"),
        ({"momentum": float("inf")}, "momentum is a finite number from 0 to 1"),
        ({"warmup": float("inf")}, "warmup is a finite number"),
        ({"lr": None}, "lr is a finite number above 0, not None"),
        ({"batch_size": 10**30}, "batch_size"),
        ({"seed": 2**64}, "seed"),
        ({"seed": True}, "seed is a whole number"),
        ({"sides": None}, "sides: pairs of epochs and pixels, not None"),
        ({"sides": (4, 16)}, "sides: epochs and pixels: 2 numbers, not 4"),
        ({"sides": ((4, 16, 2),)}, "sides: epochs and pixels: 2 numbers"),
        ({"sides": ((1.5, 16),)}, "each of sides: epochs and pixels is a whole number from 1"),
        ({"augment": None}, "augment: a tuple of names, not None"),
        ({"augment": "flip"}, "augment: a tuple of names"),
        ({"augment": ("flop",)}, "unknown augmentation 'flop' .did you mean 'flip'"),
        ({"profile_order": []}, "unknown profile_order"),
        ({"precision": 16}, "precision: a name"),
        ({"channels_last": None}, "channels_last: True or False, not None"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_weights_that_the_loss_leaves_alone(name: str) -> None:
    for decay in (0.0, 0.1):
        weight = nn.Parameter(torch.ones(3))
        optimizer = Settings(optimizer=name, lr=0.1, weight_decay=decay).make_optimizer([weight])
        weight.grad = torch.zeros(3)
        optimizer.step()
        assert bool((weight < 1).all()) == (decay > 0)
