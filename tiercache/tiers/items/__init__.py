"""The items of stores: JSON documents in namespaces, for the long-term memory of agents in frameworks."""
