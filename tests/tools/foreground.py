"""Runs a program on behalf of make, so that Ctrl-C and a hang-up end both of them well.

    foreground.py build/03_select -e 7000

Ctrl-C sends SIGINT to everything in the terminal's foreground: make, this script, the program.
If make's child is gone before make handles its own SIGINT, make reaps it twice, and complains:
"wait: No child processes". So this script, which is that child, ends when the program has ended and
make no longer has a SIGINT pending.

Its exit status is the program's (128 + N if signal N ended it). A program that Ctrl-C ended has
not failed: make gets 0, says nothing about an error, and then ends by the same SIGINT.

A hang-up (the terminal is closed, an ssh connection breaks) becomes SIGTERM for the program: the
servers say goodbye at that, and nobody is left behind. The kernel sends SIGHUP to the leader of the
terminal's session, and to the others only when the leader ends. That is usually a shell, which
ends; for `ssh -t host make run-2` it is make itself, which waits for us. There we watch the
terminal ourselves.
"""

import os
import re
import select
import signal
import sys
import threading
import time

PATIENCE = 60.0                            # seconds that make has to handle its signal


def pending(pid: int) -> bool:
    """Whether a SIGINT waits for that process to handle it. One that comes while it handles another
    is blocked, and does not count (/proc/PID/status, proc(5): masks of signals, in hexadecimal)."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        masks = {name: int(mask, 16) for name, mask in re.findall(
            r"^(ShdPnd|SigBlk):\s*(\w+)$", status.read(), re.M)}
    return bool(masks["ShdPnd"] & ~masks["SigBlk"] & 1 << signal.SIGINT - 1)


def wait_for_make() -> None:
    until = time.monotonic() + PATIENCE
    try:
        while pending(os.getppid()) and time.monotonic() < until:
            time.sleep(0.001)
    except (OSError, KeyError):
        time.sleep(0.1)                    # no such file: some time, then


def watch_terminal() -> None:
    """Sends us SIGHUP when the terminal is gone. In a thread with all our signals blocked, so that
    it is the main thread which is interrupted."""
    if os.getpgrp() != os.getsid(0):       # a shell with job control leads the session: it ends
        return
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:                        # there is none
        return

    def wait() -> None:
        poll = select.poll()
        poll.register(terminal, 0)         # POLLHUP comes unasked
        if poll.poll()[0][1] & select.POLLHUP:
            os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=wait, daemon=True).start()


def main(words: list) -> int:
    interrupted = False
    pid = 0

    def interrupt(number: int, _: object) -> None:
        nonlocal interrupted
        interrupted = True

    def terminate(number: int, _: object) -> None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:         # it has just ended
            pass

    # What was ignored when we started (nohup) stays ignored, for the program, too.
    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: terminate, signal.SIGHUP: terminate}
    ours = [number for number in handlers if signal.getsignal(number) != signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    if signal.SIGHUP in ours:              # the program's share of a hang-up comes from us
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        watch_terminal()
    try:
        pid = os.posix_spawnp(words[0], words, os.environ, setsigmask=[],
                              setsigdef=[number for number in ours if number != signal.SIGHUP])
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        return 127
    for number in ours:
        signal.signal(number, handlers[number])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)   # make's SIGTERM reaches us alone: forward it

    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if interrupted:
        wait_for_make()
    if status < 0:
        status = 128 - status
    return 0 if interrupted and status == 128 + signal.SIGINT else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
