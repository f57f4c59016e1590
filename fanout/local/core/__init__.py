"""What the embedded nameserver answers. Pure."""
