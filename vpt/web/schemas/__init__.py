"""The schemas of request bodies and responses, one module per resource."""
