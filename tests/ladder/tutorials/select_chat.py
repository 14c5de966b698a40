"""The chat room of the tutorials, on select: a line from one member goes to all the others.
Usage: select_chat.py PORT

The mechanism is theirs. The words are those of the service chat here: a member is told its name in
a line of its own when it comes.

What is wrong with it:
- Only the first ready socket of a round is served, and no member while somebody connects.
- Every member stands in the write list, always: select() never sleeps.
- A member that leaves is not noticed. recv() returns nothing again and again, and each time an
  empty line goes to all the others.
- send() to one slow member sleeps until it reads: the whole room waits.
- What one recv() returns is taken for one message.
- The signal handler takes no arguments. Python calls it with two, so it fails, and nobody is told
  that the server stops.
- A reset, a send() to a member that is gone, and accept() without a free descriptor are exceptions
  that nobody catches: each ends the server.
"""

import select
import signal
import socket
import sys

if len(sys.argv) != 2 or sys.argv[1] not in map(str, range(1, 65536)):
    print("usage: select_chat.py PORT", file=sys.stderr)
    sys.exit(2)

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(5)
readers, writers, addresses = [listener], [], {}


def stop():
    for member in writers:
        member.send(b"* the server stops\n")
        member.close()
    listener.close()
    sys.exit()


signal.signal(signal.SIGINT, stop)

while True:
    readable, writable, _ = select.select(readers, writers, [])
    if listener in readable:
        member, address = listener.accept()
        readers.append(member)
        writers.append(member)
        addresses[member] = address
        print(len(addresses), "members, the last one from", address)
        member.send(b"* you are guest-%d\n" % len(addresses))
    elif readable:
        speaker = readable[0]
        line = speaker.recv(4096).strip() + b"\n"
        for member in writers:
            if member is not speaker:
                member.send(line)
