"""Ways to send each message to every pod, each a process at the sender."""
