"""The names of the relay app's log events, for whoever writes or reads them."""

RELAY_STARTED = "relay_started"
DATAGRAMS_DROPPED = "datagrams_dropped"
COPIES_DROPPED = "copies_dropped"
COPIES_REFUSED = "copies_refused"
RELAY_DRAINING = "relay_draining"
RELAY_STOPPED = "relay_stopped"
