"""The `toolkit` command. Ctrl-C ends it without a traceback from its first imports on."""

from __future__ import annotations


def main() -> None:
    """Import the command and run it."""
    try:
        from toolkit.cli import main as command
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    command()


if __name__ == "__main__":
    main()
