"""Picture sheets: masks over photos, for people."""
