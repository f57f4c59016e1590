"""The long-running programs: `fanout receive`, `fanout relay` and `fanout relay ssdp`."""
