import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tapernet import Cascade, TaperedNet, load, load_data
from tapernet.cli import main


def test_thresholds_are_chosen_measured_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "net.safetensors"
    assert main(["cascade", "--max_loss", "0.02", "--confidence", "margin", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "one by one" in printed
    net = load(output)
    assert isinstance(net, TaperedNet)
    report = json.loads(output.with_suffix(".json").read_text())
    again = Cascade.of(net).evaluate(load_data("digits").test, latency=False)
    assert (report["accuracy"], report["macs"]) == (again.accuracy, again.macs)
    assert report["confidence"] == "margin"
    assert f"{again.macs:,.0f}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "[1.0]"], "at least two budgets"),
        (["--budgets", "[1.0,0.5]"], "grow from stage to stage"),
        (["--budgets", "[fast,1.0]"], "unknown named budget 'fast'"),
        (["--max_loss", "2"], "max_loss is a share"),
        (["--confidence", "entropy"], "unknown confidence 'entropy'"),
        (["--output", "/dev/null/net"], "cannot write"),
        (["--max_los", "0.1"], "did you mean 'max_loss'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_named(arguments: list[str], message: str, refused: Callable[[Sequence[str]], str]) -> None:
    assert message in refused(["cascade", *arguments])
