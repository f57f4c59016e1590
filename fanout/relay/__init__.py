"""The relay: what comes from outside (multicast, broadcast, port ranges) goes to every pod of a headless Service."""
