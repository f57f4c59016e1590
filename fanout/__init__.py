"""UDP broadcast for clusters: unicast each datagram to every pod of a headless Service."""

__version__ = "0.1.0"
