"""The first select echo server of the tutorials: the listener and all clients are in one list.
Usage: select_one_list_echo.py PORT

What is wrong with it:
- A client that leaves is removed from the list, and never closed. (CPython closes a socket that
  nothing refers to any more. Here `sock` and `client` still refer to the last one: it stays open,
  and its peer is not told the end, until another client comes and speaks.)
- sendall() sleeps until that client reads: one slow reader, and everybody waits.
- A reset, and accept() without a free descriptor, are exceptions that nobody catches: each ends
  the server.
"""

import select
import socket
import sys

if len(sys.argv) != 2 or sys.argv[1] not in map(str, range(1, 65536)):
    print("usage: select_one_list_echo.py PORT", file=sys.stderr)
    sys.exit(2)

listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(5)
watched = [listener]

while True:
    ready, _, _ = select.select(watched, [], [], 0.5)
    print("watched:", [sock.fileno() for sock in watched])
    print("ready:", [sock.fileno() for sock in ready])
    for sock in ready:
        if sock is listener:
            client, address = listener.accept()
            print("connected:", address)
            watched.append(client)
        else:
            data = sock.recv(1024)
            if data:
                sock.sendall(data)
            else:
                watched.remove(sock)
