"""What the programs show: tables and the values of log lines. Pure."""
