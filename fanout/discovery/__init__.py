"""Which pods a Service has: DNS answers, and what is accepted of them."""
