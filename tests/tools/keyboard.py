"""A question at the keyboard, at which no Ctrl-C is lost."""

from __future__ import annotations

import os
import select
import signal
import sys


def ask(question: str) -> str:
    """input(), without its lost signal: that looks whether a signal has come, and then sleeps in
    read(). One that comes in between waits for the next key. Here it is a byte to be read, and
    the wait sleeps on both, as in the servers (signals.hpp).

    EOFError at the end of input; KeyboardInterrupt, or what else a handler raises."""
    print(question, end="", flush=True)
    signals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    try:
        # A terminal gives one line to a read, so none waits in Python's buffer. Of a pipe all may.
        if sys.stdin.isatty():
            select.select([sys.stdin, signals], [], [])
        line = sys.stdin.readline()
    finally:
        signal.set_wakeup_fd(before)
        os.close(signals)
        os.close(wakeup)
    if not line:
        raise EOFError
    return line.rstrip("\n")
