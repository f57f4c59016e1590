"""What fanout itself puts on the wire beside the user's messages. Pure: bytes in, bytes out."""
