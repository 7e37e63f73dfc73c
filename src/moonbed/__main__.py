"""`python -m moonbed` is the `moonbed` command."""

from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the `moonbed` command: also while it imports and while it ends, Ctrl-C prints no traceback."""
    import sys

    from moonbed import signals

    try:
        from moonbed.cli import main

        main()
    except KeyboardInterrupt as stop:
        sys.stderr.write("moonbed: interrupted\n")
        sys.exit(signals.status(stop))
    finally:
        signals.ignored()


if __name__ == "__main__":
    main()
