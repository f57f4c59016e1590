"""The command line. `main` runs it; `commands` has one module a command."""
