"""What is on the wire, and what both ends decide. Pure: datagrams and `now` in, datagrams out."""
