"""Networks in the formats of other programs, each proved equal to ours before it is handed over."""
