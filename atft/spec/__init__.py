"""The typed specs: what a client may ask for, what the database stores, what the child reads. Imports pydantic only."""
