"""``python -m lightning_qsgd COMMAND``; also the console script ``lightning-qsgd``."""

import sys


def main() -> None:
    """Dispatch to a command."""
    from lightning_qsgd import cli

    cli.main(sys.argv[1:])


if __name__ == "__main__":
    main()
