"""Quantizer × promise: run the contract test and print its outcome as a Markdown table.

    python benchmarks/quantizer_contract.py > docs/contract.md

A cell holds ✓ where the promise is kept in every dtype tried, ✗ where it is not.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

CONTRACT = Path(__file__).parents[1] / "tests" / "contracts" / "test_quantizers.py"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(CONTRACT),
            f"--junitxml={report}",
        ]
        done = subprocess.run(command, cwd=CONTRACT.parents[2], stdout=sys.stderr)
        print(_table(ElementTree.parse(report)))
    raise SystemExit(done.returncode)


def _table(report: ElementTree.ElementTree) -> str:
    kept: dict[str, dict[str, bool]] = defaultdict(dict)
    promises: list[str] = []
    for case in report.iter("testcase"):
        promise, quantizer = re.fullmatch(r"test_(\w+)\[(.+)-(?:bfloat16|float32)\]", case.attrib["name"]).groups()
        if promise not in promises:
            promises.append(promise)
        passed = case.find("failure") is None and case.find("error") is None
        kept[quantizer][promise] = kept[quantizer].get(promise, True) and passed
    names = sorted(kept)
    lines = ["| promise | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for promise in promises:
        cells = ["✓" if kept[name][promise] else "✗" for name in names]
        lines.append(f"| {promise.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
