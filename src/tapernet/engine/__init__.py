"""Native runtime."""
