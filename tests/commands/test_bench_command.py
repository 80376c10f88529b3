"""`tapernet bench`."""

import json
from pathlib import Path

import pytest

from tapernet.cli import main
from tapernet.engine.native import extension

pytestmark = pytest.mark.skipif(extension() is None, reason="the native kernels were not built")


def test_it_writes_figures_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "mlp.json"
    assert main(["bench", "--net", "mlp", "--budgets", "[0.3]", "--runtimes", '["torch"]', "--rounds", "1",
                 "--output", str(output)]) == 0  # fmt: skip
    found = json.loads(output.read_text())
    assert [(t["runtime"], t["budget"]) for t in found["timings"]] == [
        ("engine", 1.0), ("torch", 1.0), ("engine", 0.3), ("torch", 0.3),
    ]  # fmt: skip
    assert found["speed_up"] == {"1.0": None, "0.3": None}
    assert output.with_suffix(".png").stat().st_size > 1000
    assert "no speed-up" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "batch and rounds"),
        (["--net", "c11net"], "c11net"),
        (["--net", "mlp", "--runtimes", '["tvm"]'], "unknown runtime 'tvm'"),
        (["--net", "mlp", "--budgets", "[2.0]"], "budget"),
        (["--bach", "3"], "unknown option 'bach'"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_network_that_stops_early_is_timed_on_its_images(tmp_path: Path) -> None:
    output = tmp_path / "c10net.json"
    net = tmp_path / "stopping.safetensors"
    assert main(["terminate", "--net", "c10net-digits", "--epochs", "0", "--output", str(net)]) == 0
    assert main(["bench", "--net", str(net), "--runtimes", '["torch"]', "--rounds", "1", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert [t["runtime"] for t in found["timings"]] == ["engine", "engine, no checks", "torch"]
    assert all(t["accuracy"] > 0.9 for t in found["timings"])
    assert set(found["choices"].values()) <= {"dense", "terminating"}
