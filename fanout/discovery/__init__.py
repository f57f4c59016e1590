"""Which pods a Service has: what DNS answered, and what is believed of it."""
