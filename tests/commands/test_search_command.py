from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from tapernet import TaperedNet, load, total_macs
from tapernet.cli import main


def test_a_budget_is_found_named_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "net"
    arguments = ["--max_macs", "9000", "--trials", "8", "--name", "fast", "--output", str(output)]
    assert main(["search", *arguments]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("uniform", "found", "held back", "'fast'"))
    net = load(output)
    assert isinstance(net, TaperedNet)
    with net.at("fast"):
        assert total_macs(net, torch.zeros(1, 1, 8, 8)).usual <= 9000
    assert main(["extract", "--net", str(output), "--budget", "fast", "--output", str(tmp_path / "small.pt2")]) == 0


def test_measured_layers_are_kept(resnet_file: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    arguments = ["--net", str(resnet_file), "--max_ms", "1000", "--trials", "2", "--latencies", str(table)]
    assert main(["search", *arguments, "--output", str(tmp_path / "net")]) == 0
    before = table.read_bytes()
    assert main(["search", *arguments, "--output", str(tmp_path / "net")]) == 0
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one limit"),
        (["--max_macs", "1", "--max_ms", "1"], "give one limit"),
        (["--max_macs", "5"], "the limit 5 is below the smallest choice"),
        (["--max_macs", "9000", "--name", "1st"], "starts with a letter"),
        (["--max_macs", "9000", "--shares", "[2]"], "a budget lies in"),
        (["--max_ms", "1", "--latencies", "text.json"], "text.json"),
        (["--max_macs", "9000", "--output", "/dev/null/net"], "cannot write"),
        (["--max_mac", "9000"], "unknown option 'max_mac'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_named(
    arguments: list[str], message: str, tmp_path: Path, refused: Callable[[Sequence[str]], str]
) -> None:
    (tmp_path / "text.json").write_text("no table")
    assert message in refused(["search", *arguments])
