"""The embedded headless Service: a small nameserver and receivers as processes on one machine."""
