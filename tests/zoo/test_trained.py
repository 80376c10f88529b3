"""The trained networks that come with the library."""

import pytest
import torch

from tapernet.saving import input_shape, load_with_spec
from tapernet.zoo import trained


@pytest.mark.parametrize("name", trained.names())
def test_each_is_small_and_runs_on_its_images(name: str) -> None:
    path = trained.find(name)
    assert path.stat().st_size < 5_000_000
    net, spec = load_with_spec(path)
    assert spec is not None
    with torch.no_grad():
        scores = net.eval()(torch.zeros(1, *input_shape(net)))
    assert scores.shape == (1, len(spec.class_names))
    assert scores.isfinite().all()
