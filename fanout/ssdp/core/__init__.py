"""What a relay for media servers decides: messages, devices, ports and URLs. Pure."""
