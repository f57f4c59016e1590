"""What facts amount to: each check's verdict and what to change. Pure."""
