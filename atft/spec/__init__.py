"""Pydantic models of requests, shared by the API, the database and the child process. Imports pydantic only."""
