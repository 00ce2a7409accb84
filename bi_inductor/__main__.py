"""``bi-inductor`` and ``python -m bi_inductor``."""

import sys


def main() -> None:
    """Run the command line; exit with a sentence where its two packages are missing."""
    try:
        from bi_inductor.cli import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(
            f"bi-inductor: error: the command line needs {error.name}: pip install 'bi-inductor[tools]'",
            file=sys.stderr,
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
