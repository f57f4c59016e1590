"""The receiver app: logs every datagram, and tells Kubernetes and Prometheus how it is."""
