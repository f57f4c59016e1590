"""The receiver's side: what to hand over, and what to answer. Pure."""
