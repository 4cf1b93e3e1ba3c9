"""The Hugging Face Hub: asked once, quietly, and missed with a clear message instead of minutes of retries."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from urllib.parse import urlparse

import datasets
import huggingface_hub.constants
import transformers
from huggingface_hub import get_session


class OfflineError(OSError):
    """Something is needed from the Hub and the Hub cannot be reached."""


def require_hub(what: str, ways_out: str, timeout: float = 3.0) -> None:
    """Raise OfflineError at once unless the Hub answers.

    Args:
        what: what is needed, for the message.
        ways_out: what the user can do instead.
        timeout: seconds to wait for an answer. The question goes the way of `huggingface_hub`, through proxies as well.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise OfflineError(f"{what} is not on this machine and HF_HUB_OFFLINE is set; unset it, or {ways_out}.")
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        with ThreadPool(1) as pool:  # bounds the look-up of the address too, and lets go of a thread that hangs
            answer = pool.apply_async(_ask, [endpoint, timeout]).get(timeout)
    except Exception as error:  # of the network: its types change with the HTTP library below
        answer = str(error)[:120] or type(error).__name__
    if answer:
        host = urlparse(endpoint).hostname
        raise OfflineError(f"{what} is not on this machine and {host} cannot be reached ({answer}); connect, or {ways_out}.")


def _ask(endpoint: str, timeout: float) -> str:
    """What is wrong with the Hub's answer, or with that of a proxy before it."""
    status = get_session().head(endpoint, timeout=timeout).status_code
    return f"status {status}" if status == 407 or status >= 500 else ""


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
