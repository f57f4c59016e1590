"""What a relay decides: its ingresses, who is refused, how datagrams are put together. Pure."""
