"""For gdb: `suite-state` prints what the server keeps: what it watches, what the last wait found
ready, its clients and what waits to be sent to them. (gdb) source tests/debug/suite_state.py

Nothing runs in the server for that: it is read, as it lies in memory.
"""

import re

import gdb

BITS = {0x001: "IN", 0x002: "PRI", 0x004: "OUT", 0x008: "ERR", 0x010: "HUP", 0x020: "NVAL"}
MOST = 16                                  # of a list; then, how many more


def items(value):
    """The elements of a std::vector or std::map, by the library's printers; a map's in pairs."""
    printer = gdb.default_visualizer(value)
    if not printer:
        raise gdb.GdbError(f"this gdb has no printers for the library's {value.type.unqualified()}")
    elements = [element for _, element in printer.children()]
    is_map = getattr(printer, "display_hint", str)() == "map"
    return list(zip(elements[::2], elements[1::2])) if is_map else elements


def text(string):
    """A std::string."""
    text = gdb.default_visualizer(string).to_string()
    return text.value().string("latin-1", length=text.length) if hasattr(text, "length") else text


def number(descriptor):
    return int(descriptor["number_"])


def bits(events, prefix="POLL"):
    """POLLIN|POLLPRI: epoll's bits have the same values, and like names."""
    return "|".join(prefix + name for bit, name in BITS.items() if int(events) & bit) or "0"


def show(title, lines, none="none"):
    more = [f"... and {len(lines) - MOST} more"] * (len(lines) > MOST)
    print(f"{title}:" + ("".join(f"\n    {line}" for line in lines[:MOST] + more) or f" {none}"))


def conversation(session):
    """What is known of a client beside its descriptor."""
    outbox = session["outbox"]
    waits = text(outbox["bytes_"])[int(outbox["sent_"]):]
    inbox = text(session["inbox"])
    ending = session["ending"]
    return (f"fd {int(session['id'])} {session['service']}".replace("Service::", "")
            + f", outbox: {len(waits)} bytes"
            + (f" {waits[:32]!r}" + "..." * (len(waits) > 32) if waits else "")
            + (f", half a line: {inbox[:32]!r}" if inbox else "")
            + ", has ended its half" * bool(session["eof"])
            + (f", ending: {ending.string()}" if int(ending) else ""))


class State:
    def __init__(self, server, serve):
        self.server, self.serve = server, serve
        self.fields = {field.name for field in server.type.fields()}
        self.listeners = {number(listener["fd"]): str(listener["service"]).rpartition("::")[2]
                          for listener in items(server["listeners_"])}
        self.clients = {}
        if "clients_" in self.fields:
            self.clients = {int(fd): client for fd, client in items(server["clients_"])}

    def whose(self, fd):
        return (f"fd {fd} listener, {self.listeners[fd]}" if fd in self.listeners else
                f"fd {fd} client" if fd in self.clients else f"fd {fd} signal pipe")

    def watched(self):
        """Where the stage keeps it, and its lines."""
        server = self.server
        if "epoll_" in self.fields:
            epoll = number(server["epoll_"])
            path = f"/proc/{gdb.selected_inferior().pid}/fdinfo/{epoll}"
            with open(path, encoding="ascii") as info:
                found = re.findall(r"^tfd:\s*(\d+) events:\s*(\w+)", info.read(), re.M)
            return f"the kernel's, in {path}; EPOLLERR and EPOLLHUP it adds unasked", [
                f"{self.whose(fd)}: {bits(events, 'EPOLL')}"
                for fd, events in sorted((int(fd), int(events, 16)) for fd, events in found)]
        if "selector_" in self.fields:
            selector = next(iter(items(server["selector_"]))).dereference()
            return f"the keys of selector_, a {selector.dynamic_type.name}", [
                f"{self.whose(int(fd))}: {bits(key['events'])}, and its callback"
                for fd, key in items(selector["keys_"])]
        if "place_" in self.fields:
            return "entries_, the array that poll() gets", [
                f"{self.whose(int(entry['fd']))}: events={bits(entry['events'])} "
                f"revents={bits(entry['revents'])}" for entry in items(server["entries_"])]
        if "entries_" in self.fields:
            return "entries_, from which the three sets are made", [
                f"{self.whose(int(fd))}: {bits(wanted)}"
                for fd, wanted in items(server["entries_"])]
        return "", []

    def show(self):
        show("listeners", [f"fd {fd} {service}" for fd, service in self.listeners.items()])
        where, lines = self.watched()
        if where:
            show(f"watched ({where})", lines)
            show("ready list of the last wait", [
                f"{self.whose(int(each['fd']))}: {bits(each['events'])}"
                for each in items(self.server["ready_"])])
        elif "clients_" in self.fields:
            print("watched: nothing, every socket is tried in every round")
        else:
            print("watched: nothing, one call sleeps for one socket")
            return show("client", [conversation(session) for session in sessions(self.serve)])
        show("clients", [
            conversation(client["session"])
            + (f", watched for {bits(client['watched'])}" if where else "")
            + ", to be closed after this round" * bool(client["finished"])
            for client in self.clients.values()])


def sessions(serve):
    """Stage 1 keeps no list: its one client is a variable of serve(), from where that is made."""
    if not serve:
        return []
    declared = gdb.lookup_symbol("session", serve.block())[0].line
    return [serve.read_var("session")] if serve.find_sal().line > declared else []


class SuiteState(gdb.Command):
    """What the server watches, what was ready, its clients and their outboxes."""

    def __init__(self):
        super().__init__("suite-state", gdb.COMMAND_DATA)

    def invoke(self, words, from_tty):
        frames, frame = {}, gdb.newest_frame() if gdb.selected_inferior().pid else None
        while frame:
            found = re.search(r"\bServer::(\w+)\(", frame.name() + "(" if frame.name() else "")
            if found:
                frames[found[1]] = frame
            frame = frame.older()
        if "run" not in frames:
            raise gdb.GdbError("the server's loop is not running")
        selected = gdb.selected_frame()
        try:
            frames["run"].select()         # the printers look types up in that frame's language
            State(frames["run"].read_var("this").dereference(), frames.get("serve")).show()
        finally:
            selected.select()


SuiteState()
