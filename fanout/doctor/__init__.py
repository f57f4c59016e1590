"""What `fanout doctor` checks: facts are gathered in one place, judged in another, and printed by the command."""
