"""What `fanout bench` measures: a run, its probes, and what they add up to."""
