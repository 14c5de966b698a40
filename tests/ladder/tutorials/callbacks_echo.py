"""The echo server of the tutorials with a selector and callbacks: the loop calls what was
registered with a socket. Usage: callbacks_echo.py PORT

What is wrong with it:
- send() is called at once, and how much it took is not looked at. With no room at all it raises
  "would block", which nobody catches: one client that does not read ends the server.
- A reset, and accept() without a free descriptor, are exceptions that nobody catches: each ends
  the server.
"""

import selectors
import socket
import sys

if len(sys.argv) != 2 or sys.argv[1] not in map(str, range(1, 65536)):
    print("usage: callbacks_echo.py PORT", file=sys.stderr)
    sys.exit(2)

selector = selectors.DefaultSelector()


def accept(listener, mask):
    client, address = listener.accept()
    print("connected:", address)
    client.setblocking(False)
    selector.register(client, selectors.EVENT_READ, read)


def read(client, mask):
    data = client.recv(1024)
    if data:
        client.send(data)
    else:
        selector.unregister(client)
        client.close()


sock = socket.socket()
sock.setblocking(False)
sock.bind(("127.0.0.1", int(sys.argv[1])))
sock.listen(5)
selector.register(sock, selectors.EVENT_READ, accept)

while True:
    for key, mask in selector.select():
        key.data(key.fileobj, mask)
