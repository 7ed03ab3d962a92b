"""Switches off progress bars and warnings of transformers and the hub."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_wanted = False


def quiet() -> None:
    """Switch off progress bars and warnings of transformers, now or once it is imported."""
    global _wanted  # noqa: PLW0603 logging is one per process, too
    _wanted = True
    if "transformers" in sys.modules:
        hush()


def hush() -> None:
    """Do what `quiet` asked for, if it was called; called when transformers is imported."""
    if not _wanted:
        return
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub.set_verbosity_error()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Switch off transformers' progress bars while the block runs."""
    from transformers.utils import logging

    were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            logging.enable_progress_bar()
