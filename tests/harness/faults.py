"""System calls that fail on demand: shim.cpp, built when it is needed, and loaded into a server."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from tests.harness.server import run_program
from tests.harness.variants import BUILD, SANITIZED, Unavailable, Variant

SOURCE = Path(__file__).resolve().parent / "shim.cpp"


def environment(variant: Variant, faults: str) -> dict[str, str]:
    """What to start that server with; Unavailable where nothing can be preloaded into it."""
    return {**_preloaded(variant), "FAULTS": faults}


@lru_cache(maxsize=None)
def _preloaded(variant: Variant) -> dict[str, str]:
    env = {"LD_PRELOAD": str(preloadable(SOURCE)), "FAULTS": ""}
    if SANITIZED:
        env["ASAN_OPTIONS"] = "detect_stack_use_after_return=1:verify_asan_link_order=0"
    helped = run_program(variant, "-h", env=env)
    if helped.returncode:
        kind = Unavailable if SANITIZED or variant.foreign else RuntimeError
        raise kind(f"nothing can be preloaded into it: {helped.stderr[:200]}")
    return env


def preloadable(source: Path) -> Path:
    """That source, built as a library that can be preloaded into a server."""
    library = BUILD / f"{source.stem}.so"
    flags = BUILD / "compiled-with"        # the servers' flags: -m32 is for a library, too
    newest = max(path.stat().st_mtime for path in (source, flags) if path.exists())
    if library.exists() and library.stat().st_mtime >= newest:
        return library
    if not sys.platform.startswith("linux"):
        raise Unavailable("calls are intercepted on Linux only")
    library.parent.mkdir(parents=True, exist_ok=True)
    new = library.with_suffix(f".{os.getpid()}")
    options = shlex.split(" ".join(os.environ.get(name, "") for name in (
        "CPPFLAGS", "CXXFLAGS", "LDFLAGS")))
    built = subprocess.run([*shlex.split(os.environ.get("CXX") or "c++"), "-std=c++20", "-O1",
                            *options, "-shared", "-fPIC", "-o", str(new), str(source), "-ldl"],
                           capture_output=True, text=True)
    if built.returncode:
        raise RuntimeError(f"{source.name} does not compile: {built.stderr}")
    os.replace(new, library)
    return library
