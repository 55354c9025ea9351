"""What the program stands on: clocks, the event loop, signals, the log and the standard streams, traces, randomness.

Leaves: each is about one thing of the process, and knows nothing of tasks.
"""
