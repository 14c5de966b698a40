"""Runs a program on behalf of make, so that Ctrl-C ends both of them well.

    foreground.py build/03_select -e 7000

Ctrl-C sends SIGINT to everything in the terminal's foreground: make, this script, the program.
If make ran the program itself, the program could be gone before make handles its own SIGINT, and
make would complain: "wait: No child processes". This script ends a moment after the program does.

Its exit status is the program's (128 + N if signal N ended it). A program that Ctrl-C ended has
not failed: make gets 0, says nothing about an error, and then ends by the same SIGINT.
"""

import os
import signal
import sys


def main(words: list) -> int:
    interrupted = False
    pid = 0

    def interrupt(number: int, _: object) -> None:
        nonlocal interrupted
        interrupted = True

    def forward(number: int, _: object) -> None:
        if pid:
            os.kill(pid, number)

    # What was ignored when we started (nohup) stays ignored, for the program, too.
    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: forward, signal.SIGHUP: forward}
    ours = [number for number in handlers if signal.getsignal(number) != signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    for number in ours:
        signal.signal(number, handlers[number])
    try:
        pid = os.posix_spawnp(words[0], words, os.environ, setsigmask=[], setsigdef=ours)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        return 127
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)   # make's SIGTERM reaches us alone: forward it

    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        status = 128 - status
    return 0 if interrupted and status == 128 + signal.SIGINT else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
