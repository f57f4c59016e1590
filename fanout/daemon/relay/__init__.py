"""`fanout relay`: forwards what comes from outside, with a live table, probes and metrics."""
