"""The sender's side: batches and their pace; confirmed messages and queries. Pure."""
