"""What a receiver counts. Pure."""
