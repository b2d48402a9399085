"""``python -m lightning_qsgd COMMAND``; also the console script ``lightning-qsgd``."""

import sys

from lightning_qsgd import manual


def main() -> None:
    """Print a page of the manual, or else dispatch to a command."""
    text, _ = manual.asked(sys.argv[1:])
    if text is not None:
        print(text, end="")
        return
    from lightning_qsgd import cli  # seconds, for torch and Lightning

    cli.main(sys.argv[1:])


if __name__ == "__main__":
    main()
