"""The poll echo server of the tutorials: masks, a map from descriptors to clients, queues.
Usage: poll_echo.py PORT

What is wrong with it:
- if IN ... elif HUP ... elif OUT ... elif ERR: while a client keeps sending, it is never written
  to. A hang-up or an error that comes together with IN is not looked at.
- A client that has ended its input is closed at once, with its queue: what waits is lost.
- A closed client stays in the map, until another one gets its number.
- How much send() took is not looked at.
- No bound on a queue: one client that does not read takes all memory.
- 60 is meant as seconds. poll() takes milliseconds.
- A reset, and accept() without a free descriptor, are exceptions that nobody catches: each ends
  the server.
"""

import select
import socket
import sys

if len(sys.argv) != 2 or sys.argv[1] not in map(str, range(1, 65536)):
    print("usage: poll_echo.py PORT", file=sys.stderr)
    sys.exit(2)

TIMEOUT = 60                               # meant as seconds; poll takes milliseconds
READ_ONLY = select.POLLIN | select.POLLPRI | select.POLLHUP | select.POLLERR
READ_WRITE = READ_ONLY | select.POLLOUT

listener = socket.socket()
listener.setblocking(False)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(5)
poller = select.poll()
poller.register(listener, READ_ONLY)
sockets, queues = {listener.fileno(): listener}, {}

while True:
    for fd, event in poller.poll(TIMEOUT):
        sock = sockets[fd]
        if event & (select.POLLIN | select.POLLPRI):
            if sock is listener:
                client, address = listener.accept()
                print("connected:", address)
                client.setblocking(False)
                poller.register(client, READ_ONLY)
                sockets[client.fileno()] = client
                queues[client] = []
            else:
                data = sock.recv(1024)
                if data:
                    queues[sock].append(data)
                    poller.modify(sock, READ_WRITE)
                else:
                    poller.unregister(sock)
                    sock.close()
                    del queues[sock]
        elif event & select.POLLHUP:
            poller.unregister(sock)
            sock.close()
            del queues[sock]
        elif event & select.POLLOUT:
            if queues[sock]:
                sock.send(queues[sock].pop(0))
            else:
                poller.modify(sock, READ_ONLY)
        elif event & select.POLLERR:
            poller.unregister(sock)
            sock.close()
            del queues[sock]
