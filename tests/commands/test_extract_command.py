from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tapernet import count_parameters, extract, load, save, terminate, total_macs, zoo
from tapernet.cli import main


def test_size_and_macs_are_printed_beside_the_full_networks(
    resnet_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "small.safetensors"
    assert main(["extract", "--net", str(resnet_file), "--budget", "0.2", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    net = load(resnet_file)
    small = extract(net, 0.2)
    for model in (net, small):
        assert f"{total_macs(model, torch.zeros(1, 1, 8, 8)).usual:,}" in printed
        assert f"{count_parameters(model):,}" in printed
    assert f"{output.stat().st_size / 1000:,.0f}" in printed
    assert load_file(output).keys() == small.state_dict().keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "0"], "a budget lies in (0, 1]"),
        (["--budget", "1.5"], "a budget lies in (0, 1]"),
        (["--budget", "fast"], "unknown named budget 'fast'"),
        (["--budget", "0.33"], "no batch-norm statistics for budget 0.33"),
        (["--output", "small.pth"], "unknown ending of an export '.pth'"),
        (["--output", "/dev/null/small.pt2"], "cannot write"),
        (["--net", "nothing"], "no such file"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_named(
    arguments: list[str], message: str, resnet_file: Path, tmp_path: Path, refused: Callable[[Sequence[str]], str]
) -> None:
    net = [] if "--net" in arguments else ["--net", str(resnet_file)]
    assert message in refused(["extract", *net, *arguments])
    assert not list(tmp_path.iterdir())


def test_a_network_without_a_dial_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(zoo.create("c10net"), tmp_path / "plain")
    assert main(["extract", "--net", str(tmp_path / "plain"), "--output", str(tmp_path / "small.pt2")]) == 2
    assert "without a dial" in capsys.readouterr().err


def test_a_network_that_stops_early_without_a_dial_is_told_what_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stopping.safetensors"
    model = zoo.create("c10net", input_shape=(3, 8, 8))
    save(terminate(model, torch.zeros(1, 3, 8, 8)), path)
    assert main(["extract", "--net", str(path), "--budget", "0.5"]) == 2
    assert "taper the network before terminate" in " ".join(capsys.readouterr().err.split())
