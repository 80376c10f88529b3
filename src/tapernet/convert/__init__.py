"""From any model to a network with a dial, and back to plain torch modules."""
