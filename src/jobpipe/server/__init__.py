"""The composition: a server and its parts, by themselves or within another program, and its own workers."""
