"""One trained network, every compute budget."""
