"""Coverage-guided fuzzing of everything that reads what strangers send: `make fuzz`. Not part of the tests."""
