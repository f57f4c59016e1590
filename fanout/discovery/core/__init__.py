"""What is believed of answers, and the pods as they are known. Pure."""
