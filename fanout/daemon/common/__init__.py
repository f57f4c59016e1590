"""What the programs share as processes: their log, their admin port, their live table."""
