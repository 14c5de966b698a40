"""The blocking greeter of the tutorials: one client at a time. Usage: blocking_greeter.py PORT

The mechanism is theirs. The words are those of the service greet here: a line each.

What is wrong with it:
- It sleeps in recv() for its one client. All others are connected by the kernel, and wait.
- sendall() sleeps until that client has read its answers.
- What one recv() returns is taken for one message.
- A reset is an exception that nobody catches: it ends the server.
"""

import socket
import sys

if len(sys.argv) != 2 or sys.argv[1] not in map(str, range(1, 65536)):
    print("usage: blocking_greeter.py PORT", file=sys.stderr)
    sys.exit(2)

listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(5)

while True:
    client, address = listener.accept()
    print("connected:", address)
    client.sendall(b"welcome\n")
    while True:
        data = client.recv(1024)
        if not data:
            break
        message = data.strip()
        if message == b"q":
            client.sendall(b"goodbye\n")
            break
        client.sendall(message + b" good\n")
    client.close()
