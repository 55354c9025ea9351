"""Settings: their kinds, where they come from, those of a server and of a worker, and what of them is shown."""
