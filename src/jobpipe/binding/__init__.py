"""What binds an app to a queue: its ways to enqueue, and the telling of what it declares."""
