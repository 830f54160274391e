"""The measurements: ``python -m tests.bench NAME [options]`` prints a Markdown table.

They are scripts for a quiet machine, never tests. Each is a module of this package with a
``main(arguments) -> int``. What they compare with comes from the extra ``bench``.
"""

import argparse
import importlib
import sys

from remote.protocol import KnownError

BENCHES = {
    "accuracy": "word error rate, start times and edge cases on the eval set",
    "exact": "our tokens against transformers' generate, window by window",
    "library": "storing segments, and search over 5,000 transcripts of an hour",
    "fuzz": "strange lines to both ends of the wire",
    "load": "the loading strategies: time, bytes and peak memory",
    "memory": "peak memory of three hours against that of ten minutes",
    "remote": "the worker over SSH: first text, overlap, a slow link, many files",
    "speed": "seconds of audio a second, beside faster-whisper and transformers",
    "startup": "process start to first text, beside faster-whisper and transformers",
}


def main() -> int:
    """The command; its exit status."""
    names = "\n".join(f"  {name:10}{what}" for name, what in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure. The benches are:\n" + names,
        epilog="`python -m tests.bench NAME --help` says what one of them takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=BENCHES, metavar="NAME", help="which one")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its own")
    chosen = parser.parse_args()
    bench = importlib.import_module(f"tests.bench.{chosen.name}")
    try:
        return int(bench.main(chosen.options))
    except KnownError as error:
        print(error, file=sys.stderr)
        return error.code.exit_code


if __name__ == "__main__":
    sys.exit(main())
