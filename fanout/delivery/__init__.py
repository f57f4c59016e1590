"""Confirmed messages and queries as state machines. Pure: datagrams and `now` in, datagrams out."""
