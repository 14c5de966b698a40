"""On what it was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path

from tests.harness import BUILD


def machine() -> dict[str, str]:
    found = re.search(r"^model name\s*:\s*(.+)$",
                      Path("/proc/cpuinfo").read_text(errors="replace"), re.M)
    return {"cpu": found[1] if found else platform.processor(), "cpus": str(os.cpu_count()),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "built": built(), "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}


def built() -> str:
    """The compiler's command line, and the first line that it says of its version."""
    try:
        command = (BUILD / "compiled-with").read_bytes().strip()
    except OSError:
        return ""
    version = subprocess.run([b"sh", b"-c", command + b" --version"], capture_output=True)
    said = [f"  ({line.decode('utf-8', 'replace')})" for line in version.stdout.splitlines()[:1]]
    return command.decode("utf-8", "replace") + "".join(said)
