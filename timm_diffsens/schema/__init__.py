"""What is written: configuration, records and their parts, as pydantic models. No torch."""
