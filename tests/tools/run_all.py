"""Starts several servers side by side, and stops them together: on Ctrl-C, or when nobody reads
what they say any more.

    run_all.py build/01_blocking build/03_select -- -t 5

What they say goes to our stdout, each line with its stage in front.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time

from tests import output

COLORS = (31, 33, 32, 36, 34, 35)
PATIENCE = 5.0  # seconds that a server has to stop
PR_SET_PDEATHSIG = 1  # prctl(2)
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with(parent: int) -> None:
    """In a server, before it is one: if we are killed, it gets SIGTERM. (Only Linux has that.)"""
    if LIBC:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # killed already
            os._exit(1)


class Stage:
    def __init__(self, number: int, path: str, words: list[str]) -> None:
        name = os.path.basename(path)  # 03_select is shown as "3 select"
        self.label = f"{name[:2].lstrip('0')} {name[3:].split('_')[0]}".ljust(13) + " | "
        if output.styled(sys.stdout):
            self.label = f"\033[{COLORS[number % len(COLORS)]}m{self.label}\033[0m"
        self.partial = b""
        # A session of its own: Ctrl-C reaches us alone, and all of them are told at once.
        we = os.getpid()
        self.process = subprocess.Popen(
            [path, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=lambda: end_with(we))
        self.output = self.process.stdout.fileno()

    def show(self, data: bytes) -> None:
        """Prints the whole lines; the beginning of one waits for the rest."""
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            sys.stdout.write(self.label + line.decode(errors="backslashreplace") + "\n")
        sys.stdout.flush()


def main() -> int:
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    paths, arguments = words[:cut], words[cut + 1:]
    if not paths:
        print("usage: run_all.py SERVER... [-- WORD...]", file=sys.stderr)
        return 2

    # A signal becomes a readable descriptor here, just as in the servers themselves.
    signal_out, signal_in = os.pipe()
    os.set_blocking(signal_in, False)
    signal.set_wakeup_fd(signal_in, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # which nohup wants
            signal.signal(number, lambda *_: None)

    stages: list[Stage] = []
    stopping = None  # when we gave up on those that have not stopped by then
    status = 0

    def stop() -> None:
        nonlocal stopping
        if stopping is None:
            stopping = time.monotonic() + PATIENCE
            for stage in stages:
                if stage.process.poll() is None:
                    stage.process.send_signal(signal.SIGTERM)

    selector = selectors.DefaultSelector()
    selector.register(signal_out, selectors.EVENT_READ)
    try:
        try:
            for number, path in enumerate(paths):
                stage = Stage(number, path, arguments)
                stages.append(stage)
                selector.register(stage.output, selectors.EVENT_READ, stage)
        except OSError as error:
            print(f"run-all: {error}", file=sys.stderr)
            status = 1
            stop()

        while len(selector.get_map()) > 1:  # more than the signals'
            left = None if stopping is None else stopping - time.monotonic()
            if left is not None and left <= 0:
                print("run-all: not every server has stopped: killed", file=sys.stderr)
                return 1
            for key, _ in selector.select(left):
                stage, data = key.data, os.read(key.fd, 65536)
                if stage is None:
                    stop()
                    continue
                if not data:
                    selector.unregister(key.fd)
                    result = stage.process.wait()
                    if stopping and result == -signal.SIGTERM:
                        result = 0  # told to stop before it had a handler
                    status = status or (result if result >= 0 else 128 - result)
                    if stopping is None:  # it ended by itself: a port that is taken, a bad word
                        data = f"ended with exit status {result}: the others stop\n".encode()
                        stop()
                try:
                    stage.show(data)
                except SystemExit as end:  # our stdout is gone: from here on it takes anything
                    status = status or end.code
                    stop()
    finally:
        for stage in stages:
            if stage.process.poll() is None:
                stage.process.kill()
            stage.process.wait()
    return status


if __name__ == "__main__":
    output.run(main, "run-all")
