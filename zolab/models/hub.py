"""The Hugging Face Hub: asked once, quietly, and missed with a clear message instead of minutes of retries."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlparse

import datasets
import huggingface_hub.constants
import transformers


class OfflineError(OSError):
    """Something is needed from the Hub and the Hub cannot be reached."""


def require_hub(what: str, ways_out: str, timeout: float = 3.0) -> None:
    """Raise OfflineError at once unless the Hub answers.

    Args:
        what: what is needed, for the message.
        ways_out: what the user can do instead.
        timeout: seconds to wait for a connection.
    """
    endpoint = urlparse(huggingface_hub.constants.ENDPOINT)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise OfflineError(f"{what} is not on this machine and HF_HUB_OFFLINE is set; unset it, or {ways_out}.")
    try:
        port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
        socket.create_connection((endpoint.hostname, port), timeout=timeout).close()
    except OSError as error:
        raise OfflineError(
            f"{what} is not on this machine and {endpoint.hostname} cannot be reached ({error}); connect, or {ways_out}."
        ) from error


@contextmanager
def cache_only() -> Iterator[None]:
    """Inside this block the loaders look at what was downloaded before and ask nobody."""
    places = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the loaders' progress bars and reports off the screen; zolab prints its own."""
    bars = datasets.utils.logging.is_progress_bar_enabled(), transformers.utils.logging.is_progress_bar_enabled()
    level = transformers.utils.logging.get_verbosity()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            transformers.utils.logging.enable_progress_bar()
