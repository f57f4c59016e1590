"""The names of the receiver's log events, for whoever writes or reads them."""

RECEIVER_STARTED = "receiver_started"
MESSAGE_RECEIVED = "message_received"
MESSAGES_SUPPRESSED = "messages_suppressed"
KERNEL_DROPPED = "kernel_dropped"
QUEUE_DROPPED = "queue_dropped"
RECEIVER_DRAINING = "receiver_draining"
RECEIVER_STOPPED = "receiver_stopped"
