"""One configuration -> one record."""
