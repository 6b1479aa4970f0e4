"""A program that emulates a Redis with the module RedisJSON on 127.0.0.1, by fakeredis, for products that need it."""

import socket

from fakeredis import TcpFakeServer


def main() -> None:
    """Print the port and serve until the process is killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = TcpFakeServer(("127.0.0.1", port), server_type="redis")
    print(port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
