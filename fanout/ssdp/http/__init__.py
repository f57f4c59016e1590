"""What is browsed and played: HTTP between clients on the LAN and pods, and the pods' events."""
