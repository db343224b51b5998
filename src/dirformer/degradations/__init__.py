"""Clean photos → degraded ones: batched, on the photos' device, every draw from a generator handed in."""
