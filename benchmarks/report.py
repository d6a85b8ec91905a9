"""The Markdown tables of files that `--json` wrote: `python -m benchmarks.report FILE.json ...`."""

import json
import pathlib
import sys

from benchmarks.contest import table


def main(files):
    for file in files:
        report = json.loads(pathlib.Path(file).read_text())
        print(f"`python -m {report['command']}`, {report['machine']}\n")
        for name, contest in report["contests"].items():
            print(table(name, contest["results"], contest["absent"]))
            print("\n" + ", ".join(f"{library} {version}" for library, version in contest["versions"].items()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
