"""What `fanout bench` measures: a run, its probes, and its result."""
