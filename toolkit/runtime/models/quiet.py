"""No progress bars and no advice from transformers and the hub: what matters, we say ourselves."""

from __future__ import annotations

import sys

_wanted = False


def quiet() -> None:
    """No progress bars and no advice from transformers.

    It is not imported for that: where it is not yet, it is told when it is.
    """
    global _wanted  # noqa: PLW0603 logging is one per process, too
    _wanted = True
    if "transformers" in sys.modules:
        hush()


def hush() -> None:
    """Pass it on, if `quiet` was called: for those who import transformers."""
    if not _wanted:
        return
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub.set_verbosity_error()
