"""A FastAPI application with its task queue inside."""
