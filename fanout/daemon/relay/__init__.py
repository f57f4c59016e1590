"""`fanout relay`: forwards what comes from outside, and tells people, Kubernetes and Prometheus how it is."""
