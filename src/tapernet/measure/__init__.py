"""MACs, accuracy, latency, and curves of them."""
