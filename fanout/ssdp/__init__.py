"""SSDP and DLNA: media server pods, found and played from the LAN (UPnP Device Architecture 1.1)."""
