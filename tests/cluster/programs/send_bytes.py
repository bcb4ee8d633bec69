"""Send bytes over a socket. Usage: send_bytes.py NUM_BYTES, or with the receiver's name as well to be the sender."""

from __future__ import annotations

import socket
import sys

PORT = 5000


def main() -> None:
    num_bytes, *receivers = sys.argv[1:]
    if receivers:
        with socket.create_connection((receivers[0], PORT), timeout=10) as connection:
            connection.sendall(bytes(int(num_bytes)))
        return
    with socket.create_server(("", PORT)) as server:
        server.settimeout(10)
        print("listening", flush=True)
        connection, _ = server.accept()
        with connection:
            received = sum(len(piece) for piece in iter(lambda: connection.recv(1 << 16), b""))
    print(received)


if __name__ == "__main__":
    main()
