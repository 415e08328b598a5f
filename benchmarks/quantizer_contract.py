"""Quantizer × promise: run the contract test and print its outcome as a Markdown table.

    python benchmarks/quantizer_contract.py

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
    lines = ["| precision | " + " | ".join(str(number + 1) for number in range(len(promises))) + " |"]
    lines.append("|---" * (len(promises) + 1) + "|")
    for name in sorted(kept):
        lines.append(
            f"| {name} | " + " | ".join("✓" if kept[name][promise] else "✗" for promise in promises) + " |"
        )
    legend = [f"{number}. {promise.replace('_', ' ')}" for number, promise in enumerate(promises, 1)]
    return "\n".join([*lines, "", *legend])


if __name__ == "__main__":
    main()
