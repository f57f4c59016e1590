"""What is accepted of answers, and the known pods. Pure."""
