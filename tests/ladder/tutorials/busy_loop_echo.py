"""The busy-loop echo server of the tutorials: tries all sockets in turn, without a pause.
Usage: busy_loop_echo.py PORT

What is wrong with it:
- It uses a whole CPU, whatever happens. That is what it is there to show.
- A client is removed from the list while the loop walks over it: all behind it move up one place,
  and the next client is skipped. It is tried again a round later, so nobody notices.
- What send() has no room for is dropped: how much it took is not looked at, and "would block" is
  taken for "nothing has come".
- A reset, and accept() without a free descriptor, are exceptions that nobody catches: each ends
  the server.
"""

import socket
import sys

if len(sys.argv) != 2 or sys.argv[1] not in map(str, range(1, 65536)):
    print("usage: busy_loop_echo.py PORT", file=sys.stderr)
    sys.exit(2)

listener = socket.socket()
listener.setblocking(False)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(5)
clients = []

while True:
    try:
        client, address = listener.accept()
        print("connected:", address)
        client.setblocking(False)
        clients.append(client)
    except BlockingIOError:                # nobody has come
        pass
    for client in clients:
        try:
            data = client.recv(1024)
            if data:
                client.send(data)
            else:
                client.close()
                clients.remove(client)
        except BlockingIOError:            # nothing has come
            pass
