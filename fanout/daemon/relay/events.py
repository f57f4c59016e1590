"""The names of the relay apps' log events, for whoever writes or reads them."""

RELAY_STARTED = "relay_started"
DATAGRAMS_DROPPED = "datagrams_dropped"
COPIES_DROPPED = "copies_dropped"
COPIES_REFUSED = "copies_refused"
RELAY_DRAINING = "relay_draining"
RELAY_STOPPED = "relay_stopped"

SSDP_RELAY_STARTED = "ssdp_relay_started"
SEARCHES_DROPPED = "searches_dropped"
HTTP_FAILURES = "http_failures"
SSDP_RELAY_DRAINING = "ssdp_relay_draining"
SSDP_RELAY_STOPPED = "ssdp_relay_stopped"
