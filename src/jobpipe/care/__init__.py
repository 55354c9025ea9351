"""Looking after a store, beside the server that uses it or without one: copies of it, and what is wrong with it."""
