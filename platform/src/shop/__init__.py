"""The system under test: a small shop of six services and one database."""
