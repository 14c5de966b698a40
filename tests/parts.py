"""The tests, in parts that run at the same time: most of a test is waiting.

    python3 -m tests.parts [PYTEST'S OPTIONS...]

Of a part that has passed a line is shown, of any other all that pytest says. The exit status is
the worst of all.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed

MATRIX = "tests/checks/test_matrix.py"
NOTES = "tests/checks/test_notes.py"
# Those that take longest come first, or all would wait for them at the end.
PARTS = {**{f"stage {each}": [MATRIX, f"--stage={each}"]
            for each in ("2", "3", "4", "5", "6-select", "6-poll", "6-epoll")},
         "tools": ["tests/tools", "tests/output"],
         "checks": ["tests/checks", f"--ignore={MATRIX}", f"--ignore={NOTES}"],
         "notes": [NOTES],
         "harness, soak": ["tests/harness", "tests/soak"],
         "stage 1": [MATRIX, "--stage=1"],
         "bench, truth": ["tests/bench", "tests/truth"],
         "compare, bugs": ["tests/compare", "tests/bugs"],
         # It compiles, and has servers that never sleep: when the others are nearly done.
         "replay": ["tests/replay"]}
AT_ONCE = 3 * (os.cpu_count() or 1)


class Parts:
    def __init__(self, options: list[str]) -> None:
        self.options = options
        self.running: set[subprocess.Popen[str]] = set()
        self.over = False

    def run(self, name: str) -> tuple[str, int, str]:
        if self.over:
            return name, 130, ""
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *PARTS[name], *self.options], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.running.add(process)
        said = process.communicate()[0]
        self.running.discard(process)
        return name, process.returncode, said

    def end(self) -> None:
        """They end their servers, and themselves."""
        self.over = True
        for process in list(self.running):
            process.terminate()


def main(options: list[str]) -> int:
    parts, worst, counts, began = Parts(options), 0, Counter(), time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for done in as_completed([pool.submit(parts.run, name) for name in PARTS]):
                name, status, said = done.result()
                *lines, last = said.splitlines() or [""]
                for count, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last):
                    counts[what] += int(count)
                if status:
                    print(said, end="")
                for line in lines:
                    if line.startswith("SKIPPED") and not status:
                        print(line)
                print(f"{name:14} {last.strip('= ')}", flush=True)
                worst = max(worst, status)
        except KeyboardInterrupt:
            parts.end()
            return 130
    print(", ".join(f"{count} {what}" for what, count in counts.items())
          + f" in {time.monotonic() - began:.0f} s")
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
