"""The select echo server of the tutorials with reading and writing separated: a queue of messages
for each client. Usage: select_queues_echo.py PORT

What is wrong with it:
- A client is put into the write list once for each message. It stands there as often as messages
  wait for it, and select() counts each: with more than 1024 entries Python's select() fails.
- A client that leaves is removed from the write list once, and its queue is deleted. If answers
  still wait, the next that is to be sent is looked for in a queue that is gone: KeyError.
- It is never closed. (CPython closes a socket that nothing refers to any more. Here `sock` and
  `client` still refer to the last one.)
- How much send() took is not looked at.
- No bound on a queue.
- A reset, and accept() without a free descriptor, are exceptions that nobody catches: each ends
  the server.
"""

import select
import socket
import sys

if len(sys.argv) != 2 or sys.argv[1] not in map(str, range(1, 65536)):
    print("usage: select_queues_echo.py PORT", file=sys.stderr)
    sys.exit(2)

listener = socket.socket()
listener.setblocking(False)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(5)
readers, writers, queues = [listener], [], {}

while readers:
    readable, writable, _ = select.select(readers, writers, [])
    for sock in readable:
        if sock is listener:
            client, address = listener.accept()
            print("connected:", address)
            client.setblocking(False)
            readers.append(client)
            queues[client] = []
        else:
            data = sock.recv(1024)
            if data:
                queues[sock].append(data)
                writers.append(sock)
            else:
                readers.remove(sock)
                if sock in writers:
                    writers.remove(sock)
                del queues[sock]
    for sock in writable:
        sock.send(queues[sock].pop(0))
        writers.remove(sock)
