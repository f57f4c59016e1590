"""`fanout receive`: logs every datagram, with probes for Kubernetes and metrics for Prometheus."""
