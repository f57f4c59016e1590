"""`fanout receive`: logs every datagram, and tells Kubernetes and Prometheus how it is."""
