import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import torch
from datasets.packaged_modules.parquet.parquet import Parquet

from tapernet.data import load_data
from tapernet.errors import DataError

LABELS = [0, 1, 1, 0, 1, 0]
Write = Callable[..., Path]


class Hub(BaseHTTPRequestHandler):
    status = 200
    asked: list[str]

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def point_to(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine that answers a probe, and nothing else."""
    handler = type("Answers", (Hub,), {"asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    point_to(monkeypatch, server.server_port)
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A port at which nobody listens, and an empty cache of the library."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        point_to(monkeypatch, free.getsockname()[1])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library-cache")


@pytest.fixture
def rows(write: Write, grey: Any) -> dict[str, Any]:
    write("test", grey[:2], [1, 0])
    folder = write("train", grey, LABELS)
    return {part: str(folder / f"{part}-00000-of-00001.parquet") for part in ("train", "test")}


def seconds_to_fail(message: str) -> float:
    start = time.monotonic()
    with pytest.raises(DataError, match=message):
        load_data("someone/animals")
    return time.monotonic() - start


@pytest.mark.usefixtures("no_hub")
def test_without_a_hub_the_error_says_what_to_do() -> None:
    assert seconds_to_fail(r"does not answer \(ConnectError.*pass that folder; or use 'digits'") < 3


@pytest.mark.usefixtures("no_hub")
def test_a_hub_that_says_nothing_is_left_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        point_to(monkeypatch, silent.getsockname()[1])
        assert seconds_to_fail("does not answer") < 3


@pytest.mark.usefixtures("no_hub")
def test_a_name_that_is_never_looked_up_is_left_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    look_up = socket.getaddrinfo

    def slow(*arguments: Any, **more: Any) -> Any:
        done.wait(20)
        return look_up(*arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        assert seconds_to_fail("nothing heard for 2 s") < 3
    finally:
        done.set()


@pytest.mark.usefixtures("no_hub")
def test_offline_mode_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    try:
        assert seconds_to_fail("OfflineModeIsEnabled") < 1
    finally:
        monkeypatch.undo()
        huggingface_hub.close_session()


def test_a_hub_that_is_down_counts_as_not_there(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 503
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("asked a hub that is down"))
    seconds_to_fail("status 503")


def test_the_probe_asks_for_the_data_set(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict())
    seconds_to_fail("someone/animals: no train and no test split; splits found: none")
    assert hub.asked == ["/api/datasets/someone/animals"]


def test_what_the_library_cannot_load_is_explained(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise datasets.exceptions.DatasetNotFoundError(f"{name} does not exist")

    hub.status = 404
    monkeypatch.setattr(datasets, "load_dataset", missing)
    seconds_to_fail("cannot be loaded from the hub: DatasetNotFoundError: someone/animals does not exist")


@pytest.mark.usefixtures("hub")
def test_a_data_set_of_the_hub_is_decoded_once(
    rows: dict[str, Any], grey: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = datasets.load_dataset("parquet", data_files=rows, cache_dir=str(tmp_path / "library-cache"))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: parts)
    for _ in range(2):
        splits = load_data("someone/animals")
        assert torch.equal(splits.train.images, torch.from_numpy(grey).unsqueeze(1))
        assert (splits.name, splits.test.labels.tolist()) == ("someone/animals", [1, 0])
    assert len(list(cache.iterdir())) == 1
    newer = datasets.DatasetDict({part: rows.select(range(2)) for part, rows in parts.items()})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: newer)
    assert len(load_data("someone/animals").train) == 2


@pytest.mark.usefixtures("no_hub")
def test_without_a_hub_the_cache_of_the_library_serves(rows: dict[str, Any], grey: Any) -> None:
    folder = Path(datasets.config.HF_DATASETS_CACHE)
    arguments = {"dataset_name": "animals", "config_id": "default", "hash": "0123"}
    Parquet(cache_dir=str(folder), data_files=rows, **arguments).download_and_prepare()
    # Where the library puts a data set that it has from the hub.
    (folder / "animals").rename(folder / "someone___animals")
    start = time.monotonic()
    splits = load_data("someone/animals")
    assert time.monotonic() - start < 3
    assert torch.equal(splits.train.images, torch.from_numpy(grey).unsqueeze(1))
    assert splits.train.class_names == ("cat", "dog")


def test_a_folder_of_that_name_comes_first(
    rows: dict[str, Any], hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(rows["train"]).parent
    monkeypatch.chdir(folder.parent)
    (folder.parent / "someone").mkdir()
    folder.rename(folder.parent / "someone" / "animals")
    assert len(load_data("someone/animals").train) == 6
    assert hub.asked == []
