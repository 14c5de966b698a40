"""The client on a terminal: the row that is being typed stands beneath all that arrives.

It edits the line itself, and survives resizes, Ctrl-Z and signals; without escape sequences where
TERM is dumb or NO_COLOR is set.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import signal
import string
import sys
import termios
import time
from contextlib import suppress

from tests.tools.printing import REFUSED, behind, printable, put, width

PROMPT = "> "
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
CTRL_Z = 0  # what no signal has as its number
LAST_OF_KEY = "~" + string.ascii_letters
PLAIN = os.environ.get("TERM", "") in ("", "dumb") or bool(os.environ.get("NO_COLOR"))


class Terminal:
    """A prompt at the bottom, with the line being typed; what arrives is printed above it."""

    def __init__(self) -> None:
        self.line: list[str] = []  # typed, and not yet sent
        self.escape = ""  # the beginning of an arrow key or the like
        self.partial = bytearray()  # received, and its newline has not
        self.prompted = False
        self.shown = ""  # the prompt's row, as it was drawn
        self.known = 0  # columns, when we last looked
        self.asked = 0  # times that the terminal has been asked where its cursor is
        self.asked_at = 0.0
        self.held = ""  # what is printed when it has answered
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.before = termios.tcgetattr(0)
        # A handler runs in the middle of anything, of a write, too. So ours do nothing, and the
        # signal becomes a byte to be read, as in the servers (signals.hpp).
        self.signals, self.wakeup = os.pipe()
        os.set_blocking(self.wakeup, False)
        signal.set_wakeup_fd(self.wakeup, warn_on_full_buffer=False)
        for number in (*ENDS, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda *_: None)
        self.take()

    def take(self) -> None:
        """Every key at once, and none shown unasked. Ctrl-Z is a key like others: the kernel would
        stop make and us together, and the shell go on before we have given the terminal back. After
        Ctrl-S any key starts the output again (IXANY), or we would not come to read Ctrl-Z."""
        self.taken = True
        modes = [*self.before[:6], self.before[6][:]]
        modes[0] |= termios.IXANY
        modes[3] &= ~(termios.ECHO | termios.ICANON)
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        modes[6][termios.VSUSP] = bytes([os.fpathconf(0, "PC_VDISABLE")])
        self.set_modes(modes)

    def give_back(self) -> None:
        if self.taken:
            self.located(0)
            self.taken = False
            try:
                put(self.erase() + self.held)
                self.held = ""
            finally:
                self.set_modes(self.before)

    def set_modes(self, modes: list) -> None:
        while True:
            try:
                return termios.tcsetattr(0, termios.TCSANOW, modes)
            except termios.error as error:
                if error.args[0] != errno.EINTR:  # stopped in the background, and brought back
                    return  # the terminal is gone: reading tells

    def woken(self) -> None:
        """What signals have come?"""
        numbers = os.read(self.signals, 4096)
        for number in ENDS:
            if number in numbers:  # main() gives the terminal back
                sys.exit(0 if number == signal.SIGINT else 128 + number)
        if CTRL_Z in numbers:
            with suppress(OSError):  # this terminal controls nobody
                self.stop(-os.tcgetpgrp(0))  # all that the kernel would have stopped
        elif numbers.rfind(signal.SIGTSTP) > numbers.rfind(signal.SIGCONT):
            self.stop(os.getpid())
        elif signal.SIGCONT in numbers:
            self.take()
            self.shown = ""  # the cursor is elsewhere
            self.draw()
        elif self.columns() != self.known:  # SIGWINCH
            self.draw()

    def stop(self, pid: int) -> None:
        """Some shells (dash) leave a terminal as they find it: it is given back before we stop."""
        ours = signal.getsignal(signal.SIGTSTP)
        if ours == signal.SIG_IGN:  # a shell without job control
            return
        self.give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(pid, signal.SIGTSTP)  # returns after fg; or at once where nobody could say fg
        signal.signal(signal.SIGTSTP, ours)
        os.write(self.wakeup, bytes([signal.SIGCONT]))

    def columns(self) -> int:
        try:
            return os.get_terminal_size(1).columns or 80
        except OSError:  # it is gone
            return 80

    def row(self) -> str:
        """The prompt, and as much of the line's end as fits beside it. The last column stays free:
        a row that is full may be wrapped, and a second row could not be cleared."""
        columns = self.columns()
        start = PROMPT if self.prompted and columns > len(PROMPT) + 2 else ""
        room = columns - 1 - len(start)
        shown: list[str] = []
        for key in reversed(self.line):
            key = printable(key)
            if width(key) > room:
                while shown and not width(shown[-1]):
                    shown.pop()  # an accent, and its letter is left out
                break
            shown.append(key)
            room -= width(key)
        return start + "".join(reversed(shown))

    def draw(self, above: str = "") -> None:
        """Clears the prompt's row, prints lines, and puts the prompt beneath them again."""
        self.held += above
        columns = self.columns()
        # A terminal made narrower than the row wraps it anew, and the cursor is now some rows below
        # the prompt; or cuts the row off. Where its cursor is, tells (DSR 6 in ECMA-48).
        if columns != self.known and not PLAIN and (self.asked or behind(self.shown, columns)[0]):
            self.asked += 1
            self.asked_at = time.monotonic()
            put("\033[6n")
        self.known = columns
        if not self.asked:
            row = self.row()
            put(self.erase() + self.held + row)
            self.shown, self.held = row, ""

    def located(self, column: int) -> None:
        """The terminal says where its cursor is; 0: not yet, so it is taken for one that wraps."""
        if not self.asked:
            return
        self.asked = self.asked - 1 if column else 0
        if not self.asked and (not column or self.columns() == self.known):
            rows, at = behind(self.shown, self.known)
            full = at == self.known  # then the cursor is on its last column, or behind, or below
            rows += full and column == 1
            if rows and (full or column in (0, at + 1)):
                put(f"\r\033[{rows}A\033[J")
            self.shown = ""

    def not_located(self) -> None:
        """No answer: this terminal has none."""
        self.located(0)
        self.draw()

    def erase(self) -> str:
        if not PLAIN:
            return "\r\033[K"
        return "\r" + " " * min(width(self.shown), self.columns() - 1) + "\r"

    def typed(self, data: bytes) -> tuple[bytes, bool]:
        send = b""
        for key in self.decoder.decode(data):
            if self.escape and key >= " ":  # ESC [ 1 ; 5 C, ESC O P: no key of ours, all is skipped
                self.escape = (self.escape + key)[:16]
                if self.escape[1] not in "[O" or (len(self.escape) > 2 and key in LAST_OF_KEY):
                    answer = re.match(r"\033\[\d+;(\d+)R", self.escape)
                    if answer:
                        self.located(int(answer[1]))
                    self.escape = ""
                continue
            self.escape = ""
            if key == self.before[6][termios.VSUSP].decode("latin-1") != "\0":
                os.write(self.wakeup, bytes([CTRL_Z]))  # first, what is typed is sent
            elif key == "\033":
                self.escape = key
            elif key == "\n":
                sent, self.line = "".join(self.line), []
                self.draw((PROMPT if self.prompted else "") + sent + "\n")
                send += sent.encode() + b"\n"
            elif key in "\b\177":
                del self.line[-1:]
            elif key == "\025":  # Ctrl-U
                self.line = []
            elif key == "\027":  # Ctrl-W
                self.line = list("".join(self.line).rpartition(" ")[0])
            elif key == "\004":  # Ctrl-D
                if not self.line:
                    return send, True
            elif not REFUSED.match(key):
                self.line.append(key.replace("\t", " "))
        self.draw()
        return send, not data

    def show(self, data: bytes) -> None:
        self.partial += data
        end = self.partial.rfind(b"\n", len(self.partial) - len(data)) + 1
        if end:
            self.draw(printable(self.partial[:end].decode(errors="backslashreplace")))
            del self.partial[:end]

    def flush(self) -> None:
        """The end of a line is slow to come, or never does: show what there is of it."""
        if self.partial:
            self.show(b"\n")

    def say(self, text: str) -> None:
        self.draw(f"-- {text}\n")

    def prompt(self, shown: bool) -> None:
        if shown != self.prompted:
            self.prompted = shown
            self.draw()
