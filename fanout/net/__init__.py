"""Sockets: how datagrams leave and arrive, and what the kernel says about them."""
