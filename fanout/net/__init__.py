"""Sockets: how datagrams leave and arrive, and what the kernel reports about them."""
