"""What the receiver and the relay share as processes: their log, their admin port, their live table."""
