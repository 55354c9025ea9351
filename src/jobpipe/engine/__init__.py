"""The queue itself: one door, `TaskQueue`, and the upkeep behind it."""
