"""Data sets of the Hugging Face hub, without a long wait where there is no network."""

import threading
import time
from queue import Empty, Queue
from typing import Any

from tapernet.errors import DataError

PROBE_SECONDS = 2.0
"""How long the hub may take to answer. The library's own attempts take half a minute where there is no network."""


def open_hub(name: str) -> Any:
    """A data set of the hub by its splits, from the network or, without one, from the library's cache on disk.

    Args:
        name: "owner/name". HF_ENDPOINT, HF_HUB_OFFLINE and the proxy variables are honoured.

    Raises:
        DataError: there is no such data set, it cannot be downloaded, or the hub cannot be reached and the cache does
            not have it.
    """
    start = time.monotonic()
    outcome = _probe(name)
    # Its import takes about a second, in which the hub may answer.
    import datasets

    try:
        failure = outcome.get(timeout=max(0.2, PROBE_SECONDS - (time.monotonic() - start)))
    except Empty:
        failure = f"nothing heard for {PROBE_SECONDS:g} s"
    if failure:
        return _from_disk(name, failure)
    try:
        return datasets.load_dataset(name)
    # The library lets errors of many others through: of the network, of file formats, of the hub's client.
    except Exception as error:
        raise DataError(f"{name} cannot be loaded from the hub: {type(error).__name__}: {error}") from error


def _probe(name: str) -> "Queue[str]":
    """Asks the hub for `name`; the queue gets why it cannot answer, or an empty string if it does."""
    outcome: Queue[str] = Queue()

    def ask() -> None:
        try:
            from huggingface_hub import constants, get_session

            response = get_session().head(f"{constants.ENDPOINT}/api/datasets/{name}", timeout=PROBE_SECONDS)
        except Exception as error:
            outcome.put(f"{type(error).__name__}: {error}")
        else:
            # Any other answer, "not found" too, is the hub's own, and load_dataset explains it.
            outcome.put(f"status {response.status_code}" if response.status_code >= 500 else "")

    # In a thread, as no time limit of the client bounds the look-up of the host's name; a daemon, so that a look-up
    # still under way does not keep the process alive.
    threading.Thread(target=ask, daemon=True).start()
    return outcome


def _from_disk(name: str, failure: str) -> Any:
    from datasets.packaged_modules.cache.cache import Cache

    try:
        builder = Cache(repo_id=name, dataset_name=name.rpartition("/")[2], version="auto", hash="auto")
        return builder.as_dataset()
    except Exception as error:
        raise DataError(
            f"{name}: no such folder; the hub does not answer ({failure}), and its disk cache does not help ({error}). "
            f"Download its train-*.parquet and test-*.parquet (huggingface.co/datasets/{name}) with a network into a "
            f"folder, and pass that folder; or use 'digits', which needs no network"
        ) from error
